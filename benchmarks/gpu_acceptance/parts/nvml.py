"""Part d: what NVML says about the card: clocks, what throttles them, power against energy.

It also checks that a bench run beside a deliberate load is called unstable.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

from benchmarks.gpu_acceptance.parts import Task
from benchmarks.latency import gpu_watch, stability, worker
from exporter.errors import ExporterError, Missing
from exporter.machine.gpus import open_nvml

_SAMPLE_S = 0.02
_SETTLE_S = 2.0  # until the process of the load runs its first products
_METER_S = 4.0
_LOAD_S = 14.0


def answer(job: str) -> worker.Answer:
    """Read the card idle and under load.

    Raises:
        Missing: NVML is missing, or finds no card.
    """
    Task.from_json(job)
    with open_nvml() as nvml:
        if nvml is None or not nvml.nvmlDeviceGetCount():
            raise Missing("NVML finds no GPU here", hint="pip install nvidia-ml-py; see nvidia-smi")
        idle = state()
        with _load():
            loaded = state()
            metered = _power_against_energy(nvml)
        return {"idle": idle, "loaded": loaded, **metered}


def state() -> dict[str, Any]:
    """Return what the card does now, and whether a run that begins now would be unstable."""
    busy = gpu_watch.listen(1.0)
    return {
        "gpus": [asdict(gpu) for gpu in gpu_watch.read_gpus()],
        "busy": busy,
        "unstable": list(stability.reasons((), "", "sweep", None, gpu_busy_before=busy)),
    }


def _power_against_energy(nvml: Any) -> dict[str, Any]:
    """Compare the power, integrated over some seconds, with the energy counter."""
    handle = nvml.nvmlDeviceGetHandleByIndex(0)
    watts, times = [], []
    before = nvml.nvmlDeviceGetTotalEnergyConsumption(handle) / 1000
    started = time.perf_counter()
    while (now := time.perf_counter() - started) < _METER_S:
        times.append(now)
        watts.append(nvml.nvmlDeviceGetPowerUsage(handle) / 1000)
        time.sleep(_SAMPLE_S)
    joules = nvml.nvmlDeviceGetTotalEnergyConsumption(handle) / 1000 - before
    elapsed_s = time.perf_counter() - started
    mean = statistics.fmean(watts)
    return {
        "power_w": mean,
        "energy_j": joules,
        "power_by_energy": mean * elapsed_s / joules if joules else None,
        "samples": len(watts),
    }


@contextmanager
def _load() -> Iterator[None]:
    """Keep the card busy from another process, as another user's work would.

    Raises:
        ExporterError: the load did not run.
    """
    function = f"{__package__}.load:answer"
    with ThreadPoolExecutor(1) as pool:
        done: Future[worker.Answer] = pool.submit(
            worker.ask, function, json.dumps(_LOAD_S), 2 * _LOAD_S
        )
        time.sleep(_SETTLE_S)
        yield
        result = done.result()
    if "error" in result:
        raise ExporterError(f"the deliberate load did not run: {result['error']}")
