"""TensorRT-RTX: plans compiled ahead of time on any machine, for GPUs that need not be there.

The plan's kernels are chosen and compiled when it is first loaded on a GPU. Without
``--compute-capability`` one plan serves Ampere and later; Turing (7.5) must be asked for:
https://docs.nvidia.com/deeplearning/tensorrt-rtx/latest/inference-library/cpu-engines.html
This project has built such plans in its tests and never run one: not run on a GPU.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import tensorrt_rtx as trt

from exporter.targets import _tensorrt
from exporter.targets._tensorrt_runner import EngineRunner

if TYPE_CHECKING:
    from exporter.artifact import Artifact
    from exporter.targets import Build


def compile(folder: Path, build: Build) -> dict[str, Any]:
    """Build ``engine.plan``; needs no GPU and no driver."""
    capabilities = build.options.compute_capabilities
    return {
        **_tensorrt.build_plan(trt, folder, build),
        "runs_on": f"compute capability {', '.join(capabilities)}"
        if capabilities
        else "compute capability 8.0 and later (TensorRT-RTX's default)",
        "executed": "not run on a GPU",
    }


def open(artifact: Artifact, threads: int | None = None) -> EngineRunner:
    """Open ``engine.plan`` once its hash is the passport's; ``threads`` is for CPU engines."""
    return EngineRunner(trt, artifact.file(_tensorrt.PLAN))
