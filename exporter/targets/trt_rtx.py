"""TensorRT-RTX: plans compiled ahead of time on any machine, even one without the GPU.

The plan's kernels are chosen and compiled when it is first loaded on a GPU. Without
``--compute-capability``, one plan is for Ampere and later. Turing (7.5) must be requested. An FP8
plan is for 8.9 and 12.0, as Ampere has no FP8:
https://docs.nvidia.com/deeplearning/tensorrt-rtx/latest/inference-library/cpu-engines.html
docs/results.md lists the GPUs on which we have run such plans.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import tensorrt_rtx as trt

from exporter.engines.record import ENGINE
from exporter.targets import Compiled, _tensorrt, lookup
from exporter.targets.tensorrt_runner import EngineRunner

if TYPE_CHECKING:
    from exporter.artifact.folder import Artifact
    from exporter.targets import Build

# "By default [...] compute capability 8.0, 8.6, 8.9, 12.0, and later": that page.
_DEFAULT = _tensorrt.BuiltFor(("8.0", "8.6", "8.9", "12.0"), "ampere+")


def compile(folder: Path, build: Build) -> Compiled:
    """Build ``engine.plan``. This needs no GPU and no driver."""
    asked = build.options.compute_capabilities or lookup("trt-rtx").builds_for.get(build.precision)
    built_for = _DEFAULT
    if asked:
        built_for = _tensorrt.BuiltFor(asked, "none")
        build = replace(build, options=replace(build.options, compute_capabilities=asked))
    done = _tensorrt.build_plan(trt, folder, build, built_for)
    return replace(done, section={**done.section, "executed": "not run on a GPU"})


def open(artifact: Artifact, threads: int | None = None) -> EngineRunner:
    """Open ``engine.plan``, if its hash matches the passport. ``threads`` is for CPU engines."""
    name = str(artifact.path / ENGINE)
    return EngineRunner(trt, artifact.read_bytes(ENGINE), name=name)
