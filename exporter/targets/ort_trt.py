"""onnxruntime's TensorRT provider, which builds engines from the graph when a session opens.

Its networks get their types from flags; they aren't strongly typed. If a flag is set, TensorRT may
also run an FP32 layer in that type. So we set a flag only if the graph has the type. Engines and
timings are kept in the user's cache folder: https://onnxruntime.ai/docs/execution-providers/
TensorRT-ExecutionProvider.html, "TensorRT EP Caches".
"""

from __future__ import annotations

from pathlib import Path

from exporter.artifact.folder import Artifact
from exporter.targets import Build, Compiled, _ort_two_steps
from exporter.targets._ort_gpu import OrtGpuRunner
from exporter.targets._ort_providers import TENSORRT
from exporter.targets._ort_two_steps import Wanted


def options(wanted: Wanted) -> dict[str, str]:
    """Return the provider's options."""
    import onnx
    from onnx import TensorProto

    graph = onnx.load_model_from_string(wanted.model).graph
    half = any(weight.data_type == TensorProto.FLOAT16 for weight in graph.initializer)
    return {
        "trt_fp16_enable": str(int(half)),
        "trt_int8_enable": str(int(wanted.precision == "int8")),
        "trt_engine_cache_enable": "1",
        "trt_engine_cache_path": str(wanted.cache),
        "trt_timing_cache_enable": "1",
        "trt_timing_cache_path": str(wanted.cache),
        **_ort_two_steps.profiles(wanted, TENSORRT),
    }


def compile(folder: Path, build: Build) -> Compiled:
    """Build engines here and record where nodes run, or say how to compile elsewhere."""
    return _ort_two_steps.compile(folder, build, TENSORRT, options)


def open(artifact: Artifact, threads: int | None = None) -> OrtGpuRunner:
    """Open ``model.onnx``, if its hash matches the passport. ``threads`` is for CPU engines."""
    return _ort_two_steps.open(artifact, TENSORRT, options)
