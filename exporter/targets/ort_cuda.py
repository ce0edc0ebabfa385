"""onnxruntime's CUDA provider: FP32, with TF32 if the user asks for it, and FP16.

It has no kernels for INT8 convolutions: https://onnxruntime.ai/docs/execution-providers, "CUDA".
By default, onnxruntime uses TF32, which rounds the factors of FP32 products to 10 bits.
"""

from __future__ import annotations

from pathlib import Path

from exporter.artifact.folder import Artifact
from exporter.targets import Build, Compiled, _ort_two_steps
from exporter.targets._ort_gpu import OrtGpuRunner
from exporter.targets._ort_providers import CUDA
from exporter.targets._ort_two_steps import Wanted


def options(wanted: Wanted) -> dict[str, str]:
    """Return the provider's options."""
    return {"use_tf32": str(int(wanted.build.tf32))}


def compile(folder: Path, build: Build) -> Compiled:
    """Open the graph here and record where its nodes run, or say how to compile it elsewhere."""
    return _ort_two_steps.compile(folder, build, CUDA, options)


def open(artifact: Artifact, threads: int | None = None) -> OrtGpuRunner:
    """Open ``model.onnx``, if its hash matches the passport. ``threads`` is for CPU engines."""
    return _ort_two_steps.open(artifact, CUDA, options)
