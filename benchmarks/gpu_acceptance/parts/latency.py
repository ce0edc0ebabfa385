"""Part b: latency and throughput of CUDA's provider beside the compiled Keras original.

Every round opens every engine in a fresh process, in a new random order, and times all batch sizes
there. As many rounds run as fit into the time, so a slow card gets fewer rounds instead of none.
"""

from __future__ import annotations

import json
import random
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.drift.linear_layers import linear_layers
from benchmarks.gpu_acceptance import handover, skeleton
from benchmarks.gpu_acceptance.parts import Device, Task
from benchmarks.gpu_acceptance.parts.engines import VARIANTS, Variant, finished, open_on
from benchmarks.latency import result as latency_result
from benchmarks.latency import worker
from benchmarks.latency.bootstrap import ratio_interval, ratio_of_medians
from benchmarks.latency.engines import feeder
from benchmarks.latency.timing_worker import repeat, warm_up
from exporter.artifact import folder as artifact
from exporter.artifact.folder import Artifact
from exporter.network.runner import DeviceRunner

KERAS = "keras"
_NETWORKS = ("resnet18", skeleton.NAME)
_KEPT_S = 8.0  # for the end, and if a round takes longer than the one before


@dataclass(frozen=True)
class Setting:
    """How a device is timed.

    Attributes:
        batches: images a call.
        seconds: of each batch size.
        warm_up_s: of each, the most.
        rounds: the most; as many as fit.
    """

    batches: tuple[int, ...]
    seconds: float
    warm_up_s: float
    rounds: int


SETTINGS: dict[Device, Setting] = {
    "cuda": Setting((1, 8, 32, 256), 0.25, 1.5, 5),
    "cpu": Setting((1, 2), 0.05, 0.1, 1),
}


@dataclass(frozen=True)
class Engine:
    """The engine that one process times.

    Attributes:
        network: its name.
        name: of the variant, or :data:`KERAS`.
        path: the artifact; empty for Keras.
        cuda_graph: replay the kernels as one graph.
        device: to run it on.
    """

    network: str
    name: str
    path: str
    cuda_graph: bool
    device: Device


def answer(job: str) -> worker.Answer:
    """Time all engines of both networks, in as many rounds as fit."""
    task = Task.from_json(job)
    end = time.perf_counter() + task.limit_s - _KEPT_S
    peak = worker.need("benchmarks.gpu_acceptance.parts.peak:answer", job)
    made = dict(_artifacts(task))
    engines = list(line_up(made, task.device))
    samples: dict[Engine, list[worker.Answer]] = {engine: [] for engine in engines}
    order, longest = random.Random(0), 0.0
    for _ in range(SETTINGS[task.device].rounds):
        started = time.perf_counter()
        if started + longest > end:
            break
        for engine in order.sample(engines, len(engines)):
            left = end - time.perf_counter()
            if left <= 0:
                break
            function = f"{__name__}:time_one"
            samples[engine].append(worker.ask(function, json.dumps(asdict(engine)), left))
        longest = max(longest, time.perf_counter() - started)
    macs = {network: _multiply_adds(made[network, "fp32"]) for network in _NETWORKS}
    return {
        "setting": asdict(SETTINGS[task.device]),
        "random_weights": [skeleton.NAME],
        "peak": peak,
        "multiply_adds": macs,
        "rows": list(rows(samples, macs, peak["tflops"])),
    }


def _artifacts(task: Task) -> Iterator[tuple[tuple[str, str], Artifact]]:
    """Finish every variant of both networks, by network and variant."""
    about = json.loads((task.folder / handover.PREPARED).read_text(encoding="utf-8"))
    for variant in VARIANTS:
        given = handover.artefact_folder(task.folder, "resnet18", variant.precision)
        place = task.work / f"resnet18-{variant.name}"
        yield (
            ("resnet18", variant.name),
            finished(artifact.read(given), variant, place, task.device),
        )
        bare = skeleton.file(task.folder, variant.precision)
        handover.verify(bare, about["files"].get(bare.name))
        yield (skeleton.NAME, variant.name), _restored(bare, variant, task)


def _restored(bare: Path, variant: Variant, task: Task) -> Artifact:
    whole = skeleton.restore(bare, task.work / f"whole-{variant.name}")
    place = task.work / f"{skeleton.NAME}-{variant.name}"
    return finished(whole, variant, place, task.device)


def line_up(made: dict[tuple[str, str], Artifact], device: Device) -> Iterator[Engine]:
    """Return the engines to time. Each network's Keras original comes first."""
    for network in _NETWORKS:
        yield Engine(network, KERAS, "", False, device)
        for (of, variant), one in made.items():
            if of != network:
                continue
            yield Engine(network, variant, str(one.path), False, device)
            if device == "cuda":
                yield Engine(network, variant, str(one.path), True, device)


def time_one(job: str) -> worker.Answer:
    """Time one engine at every batch size. The process does nothing else.

    Returns:
        ``settings``, and by batch size ``calls_ms`` and ``device``: milliseconds by part.
    """
    engine = Engine(**json.loads(job))
    setting = SETTINGS[engine.device]
    found: dict[str, Any] = {"batches": {}}
    if engine.name == KERAS:
        from benchmarks.gpu_acceptance.parts.original import open_original

        original = open_original(engine.network, engine.device)
        for batch in setting.batches:
            images = _images(engine.network, batch)
            call = partial(original.call, images)
            warm_up(call, setting.warm_up_s)
            found["batches"][str(batch)] = {"calls_ms": _calls(call, setting), "device": {}}
        return {**found, "settings": original.settings}
    one = artifact.read(Path(engine.path))
    runner, feed = open_on(one, engine.device), feeder(one)
    timed = isinstance(runner, DeviceRunner)
    if isinstance(runner, DeviceRunner):
        runner.time_batches(cuda_graph=engine.cuda_graph)
    with runner:
        for batch in setting.batches:
            call = partial(runner.infer, feed(_images(engine.network, batch)))
            warm_up(call, setting.warm_up_s)
            if isinstance(runner, DeviceRunner):
                runner.times.clear()
            calls_ms = _calls(call, setting)
            found["batches"][str(batch)] = {"calls_ms": calls_ms, "device": _parts(runner)}
        settings = runner.device_settings if isinstance(runner, DeviceRunner) else {}
    return {**found, "settings": {**settings, "timed_on_device": timed}}


def _calls(call: Callable[[], object], setting: Setting) -> list[float]:
    return [1000 * seconds for seconds in repeat(call, setting.seconds, 10)]


def _parts(runner: Any) -> dict[str, float]:
    """Return the median milliseconds of each part of a call on the device."""
    if not isinstance(runner, DeviceRunner) or not runner.times:
        return {}
    times = [asdict(each) for each in runner.times]
    return {f"{part}_ms": statistics.median(each[part] for each in times) for part in times[0]}


def _images(network: str, batch: int) -> np.typing.NDArray[np.float32]:
    size, channels = (skeleton.SIZE, skeleton.CHANNELS) if network == skeleton.NAME else (96, 1)
    random = np.random.default_rng(batch)
    return random.uniform(size=(batch, size, size, channels)).astype(np.float32)


def _multiply_adds(one: Artifact) -> int:
    """Count the multiply-adds of one image."""
    return sum(layer.multiply_adds for layer in linear_layers(one).values())


def rows(
    samples: dict[Engine, list[worker.Answer]],
    macs: dict[str, int],
    tflops: dict[str, float],
) -> Iterator[dict[str, Any]]:
    """Summarize the samples: a row for each engine and batch size.

    Args:
        samples: by engine, one a round: what :func:`time_one` returned, or an ``error``.
        macs: multiply-adds of an image, by network.
        tflops: the card's peak by type of number.
    """
    originals = {each.network: taken for each, taken in samples.items() if each.name == KERAS}
    for engine, taken in samples.items():
        base = {"network": engine.network, "engine": engine.name, "cuda_graph": engine.cuda_graph}
        failed = next((each["error"] for each in taken if "error" in each), None)
        if failed or not taken:
            yield {**base, "error": failed or "there was no time left for it"}
            continue
        for batch in taken[0]["batches"]:
            blocks = [each["batches"][batch] for each in taken]
            calls = [ms for block in blocks for ms in block["calls_ms"]]
            summary = latency_result.summary(calls)
            device = {
                part: statistics.median(block["device"][part] for block in blocks)
                for part in blocks[0]["device"]
            }
            compute_ms = device.get("compute_ms", summary["p50"])
            done = 2 * macs[engine.network] * int(batch) / (compute_ms / 1000) / 1e12
            peak = tflops.get(engine.name)
            yield {
                **base,
                "batch": int(batch),
                "rounds": len(blocks),
                **{f"{name}_ms": value for name, value in summary.items()},
                "images_s": 1000 * int(batch) / summary["p50"],
                "device": device,
                "share_of_peak": done / peak if peak else None,
                "speedup": _speedup(blocks, originals[engine.network], batch),
                "settings": taken[0]["settings"],
            }


def _speedup(
    blocks: Sequence[worker.Answer], keras: Sequence[worker.Answer], batch: str
) -> dict[str, float] | None:
    """Return how many times as fast as Keras it is, in pairs by round; None without pairs."""
    pairs = [
        (
            statistics.median(theirs["batches"][batch]["calls_ms"]),
            statistics.median(ours["calls_ms"]),
        )
        for theirs, ours in zip(keras, blocks, strict=False)
        if "error" not in theirs
    ]
    if not pairs:
        return None
    slow, fast = ([pair[side] for pair in pairs] for side in (0, 1))
    found = {"ratio": ratio_of_medians(slow, fast)}
    if len(pairs) > 1:
        found["low"], found["high"] = ratio_interval(slow, fast)
    return found
