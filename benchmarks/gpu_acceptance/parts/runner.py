"""Part c: our engine runner on real CUDA, with a stand-in for the engine that launches a kernel.

It compares results with numpy, a captured graph with no graph, event times with the host's clock,
and memory before and after ten thousand calls.
"""

from __future__ import annotations

import resource
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.gpu_acceptance.parts import Task
from benchmarks.gpu_acceptance.parts.stand_in import LARGEST, WIDTH, as_module
from benchmarks.latency import worker
from exporter.targets.tensorrt_runner import EngineRunner, load_cuda

BATCHES = (1, 3, 8, 3, LARGEST, 1)
CALLS = 10_000
_SLOW = 200_000  # repeats of the kernel's work: milliseconds, far above any launch
_TIMED_CALLS = 20


def answer(job: str) -> worker.Answer:
    """Try the runner.

    Raises:
        Missing: cuda-python or a GPU is missing.
    """
    Task.from_json(job)
    load_cuda()
    return {"exact": exact(), "leaks": leaks(CALLS), "clock": clock()}


def exact() -> dict[str, Any]:
    """Compare with numpy, over changing batch sizes, with a graph and without."""
    worst, captured = 0.0, []
    for cuda_graph in (False, True):
        with EngineRunner(as_module(), b"1", cuda_graph=cuda_graph) as runner:
            for batch in (each for each in BATCHES for _ in range(3)):
                x = np.random.default_rng(batch).normal(size=(batch, WIDTH)).astype(np.float32)
                got = runner.infer({"x": x})["y"]
                worst = max(worst, float(np.abs(got - (2 * x + 1)).max()))
            captured.append(runner.uses_cuda_graph)
    return {"max_abs_error": worst, "graph_without": captured[0], "graph_with": captured[1]}


def leaks(calls: int) -> dict[str, Any]:
    """Call very often, and compare the memory of the GPU and of this process before and after."""
    x = np.ones((8, WIDTH), np.float32)
    with EngineRunner(as_module(), b"1") as runner:
        for _ in range(100):  # memory that is allocated once is allocated now
            runner.infer({"x": x})
        free, resident = _free_bytes(), _resident_mib()
        for _ in range(calls):
            runner.infer({"x": x})
        used = free - _free_bytes()
        grown = _resident_mib() - resident
    return {"calls": calls, "gpu_bytes": used, "host_mib": grown}


def clock() -> dict[str, Any]:
    """Compare the events' times with the host's clock around the same calls."""
    x = np.ones((LARGEST, WIDTH), np.float32)
    runner = EngineRunner(as_module(), str(_SLOW).encode())
    runner.time_batches(cuda_graph=False)
    walls = []
    with runner:
        for _ in range(_TIMED_CALLS):
            started = time.perf_counter()
            runner.infer({"x": x})
            walls.append(1000 * (time.perf_counter() - started))
        by_events = [each.copy_in + each.compute + each.copy_out for each in runner.times]
    wall, events = statistics.median(walls[1:]), statistics.median(by_events[1:])
    return {"host_ms": wall, "events_ms": events, "events_by_host": events / wall}


def _resident_mib() -> float:
    """Return this process's memory now. Its peak would hide a leak below an earlier peak."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


def _free_bytes() -> int:
    status, free, _ = load_cuda().cudaMemGetInfo()
    if int(status):
        raise RuntimeError(f"cudaMemGetInfo gives {status}")
    return int(free)
