"""Time one engine at one batch size, in a process with nothing else.

The spinning thread pools of two engines in one process would ruin each other's timing. Also, each
process has its own luck (where its memory lies, on which core its threads start), and an interval
over rounds must include it. So every block of every round is a fresh process.
:mod:`benchmarks.latency.bench` starts them. One JSON object comes in on standard input, and one
goes out as the last line.
"""

from __future__ import annotations

import json
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.latency import energy, gpu_watch, machine_watch, worker
from benchmarks.latency.engines import Engine, opened

LEAST_CALLS = 10
# Warm means that the medians of three successive groups of calls lie within 5% of each other.
WARM_GROUPS = 3
WARM_SPREAD = 0.05
_GROUP_S = 0.1
_GROUP_CALLS = 3


@dataclass(frozen=True)
class Job:
    """One block.

    Attributes:
        engine: what to time.
        images: a ``.npy`` file of preprocessed images, (n, height, width, channels) float32.
        batch: images per call, at most n.
        threads: number of the engine's threads.
        cores: numbers of the cores that the process is pinned to; empty if it can't be pinned.
        seconds: how long to measure.
        warm_up_s: how long to warm up at most.
    """

    engine: Engine
    images: Path
    batch: int
    threads: int
    cores: tuple[int, ...]
    seconds: float
    warm_up_s: float

    def as_json(self) -> str:
        """Return the line that a worker reads."""
        return json.dumps(asdict(self), default=str)

    @classmethod
    def from_json(cls, line: str) -> Job:
        """Read what :meth:`as_json` wrote."""
        given = json.loads(line)
        engine = Engine.from_json(given["engine"])
        changed = {"engine": engine, "images": Path(given["images"])}
        return cls(**{**given, **changed, "cores": tuple(given["cores"])})


def measure(job: Job) -> dict[str, Any]:
    """Time a block in this process, which must be fresh.

    Returns:
        ``calls_ms`` (every call), ``elapsed_s`` (all calls), ``warm_up_s``, ``warm`` (whether it
        got warm), ``load``, ``peak_rss_mib``, ``energy_mj`` (per sample, by meter), ``device``
        (milliseconds of each call on a GPU, by part) and ``settings``.
    """
    if job.cores:
        os.sched_setaffinity(0, job.cores)  # before any library makes its threads
    with opened(job.engine, job.threads) as engine:
        images = np.load(job.images)
        whole = images[: len(images) - len(images) % job.batch]
        feeds = [engine.feed(part) for part in whole.reshape(-1, job.batch, *images.shape[1:])]
        turn = 0

        def call() -> None:
            nonlocal turn
            engine.runner.infer(feeds[turn % len(feeds)])
            turn += 1

        started = time.perf_counter()
        warm = warm_up(call, job.warm_up_s)
        warmed = time.perf_counter()
        engine.forget()
        with energy.Meters() as meters:
            before = machine_watch.read(job.cores)
            calls_s = repeat(call, job.seconds, LEAST_CALLS)
            after = machine_watch.read(job.cores)
        gpus = [asdict(gpu) for gpu in gpu_watch.read_gpus()]
        if meters.gpu_mhz is not None:  # a Jetson's GPU, which NVML does not know
            gpus.append(asdict(gpu_watch.GpuState(len(gpus), meters.gpu_mhz, ())))
        load = machine_watch.between(before, after, len(job.cores) or 1)
        return {
            "calls_ms": [1000 * seconds for seconds in calls_s],
            "elapsed_s": after.wall_s - before.wall_s,
            "warm": warm,
            "warm_up_s": warmed - started,
            "load": {**asdict(load), "gpus": gpus},
            "peak_rss_mib": machine_watch.peak_rss_mib(),
            "energy_mj": {
                meter: 1000 * spent / (len(calls_s) * job.batch)
                for meter, spent in meters.joules.items()
            },
            "device": engine.device(),
            "settings": engine.all_settings(),
        }


def warm_up(call: Callable[[], object], longest_s: float) -> bool:
    """Call until the time of a call has settled, or the time is up.

    Returns:
        Whether it settled, by :data:`WARM_GROUPS` and :data:`WARM_SPREAD`.
    """
    end = time.perf_counter() + longest_s
    medians: list[float] = []
    while True:
        medians.append(statistics.median(repeat(call, _GROUP_S, _GROUP_CALLS)))
        last = medians[-WARM_GROUPS:]
        if len(last) == WARM_GROUPS and max(last) <= min(last) * (1 + WARM_SPREAD):
            return True
        if time.perf_counter() >= end:
            return False


def repeat(call: Callable[[], object], seconds: float, least: int) -> list[float]:
    """Call repeatedly for ``seconds`` and at least ``least`` times; return each call's seconds."""
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < least or time.perf_counter() < end:
        started = time.perf_counter()
        call()
        times.append(time.perf_counter() - started)
    return times


def answer(job: str) -> worker.Answer:
    """Time the engine of a job; this runs in its own process."""
    return measure(Job.from_json(job))
