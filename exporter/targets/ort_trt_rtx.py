"""TensorRT-RTX as a plugin of onnxruntime: strongly typed, compiled when a session opens.

The code that it compiles for a GPU is kept in the user's cache folder:
https://nvidia.github.io/TensorRT-RTX-EP-ABI/integration-guide.html.
"""

from __future__ import annotations

from pathlib import Path

from exporter.artifact.folder import Artifact
from exporter.targets import Build, Compiled, _ort_two_steps
from exporter.targets._ort_gpu import OrtGpuRunner
from exporter.targets._ort_providers import TENSORRT_RTX
from exporter.targets._ort_two_steps import Wanted


def options(wanted: Wanted) -> dict[str, str]:
    """Return the provider's options."""
    return {
        "nv_runtime_cache_path": str(wanted.cache),
        **_ort_two_steps.profiles(wanted, TENSORRT_RTX),
    }


def compile(folder: Path, build: Build) -> Compiled:
    """Compile here and record where nodes run, or say how to compile elsewhere."""
    return _ort_two_steps.compile(folder, build, TENSORRT_RTX, options)


def open(artifact: Artifact, threads: int | None = None) -> OrtGpuRunner:
    """Open ``model.onnx``, if its hash matches the passport. ``threads`` is for CPU engines."""
    return _ort_two_steps.open(artifact, TENSORRT_RTX, options)
