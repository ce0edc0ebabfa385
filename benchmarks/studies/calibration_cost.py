"""What entropy calibration costs, beside plain inference and onnxruntime's own calibrator.

Every measurement runs in its own process. Its clock runs from opening the session to the last
result: for ``plain`` the logits of all images, for ``ours`` the ranges that ``calibration``
chooses, for ``onnxruntime`` the ranges of its entropy calibrator with default settings. All read
the same preprocessed float32 images from a file, a batch at a time, so neither reading pictures nor
holding them counts. ``plain`` has onnxruntime's default session, which spins. That favors it.

onnxruntime's calibrator keeps every activation. So it gets as many images as fit into half of the
free memory, estimated from two small runs.

Run it on an idle machine: ``python -m benchmarks.studies.calibration_cost``.
"""

from __future__ import annotations

import contextlib
import io
import json
import random
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np

from benchmarks import command
from benchmarks.latency import worker
from benchmarks.studies import study
from benchmarks.studies.study import Run
from exporter.cli import console
from exporter.errors import Missing
from exporter.models import zoo

if TYPE_CHECKING:
    import numpy.typing as npt

TOOLS = ("plain", "ours", "onnxruntime")
PROBES = (16, 64)  # images of the two small runs of onnxruntime's calibrator

Sample = dict[str, Any]
Feeds = dict[str, "npt.NDArray[np.float32]"]


# The folder that every process reads.


def prepare(model: str, data: str, images: int, place: str) -> study.Cell:
    """Write a zoo model's folded graph, its tensors to calibrate, and training images for it."""
    import onnx_ir as ir

    from exporter import pipeline
    from exporter.data import datasets, feeds
    from exporter.data.calibration_images import BATCH
    from exporter.network import frontend, sources
    from exporter.passes import insert_qdq, schemes
    from exporter.precision.measure import prepare

    source = sources.load(model, weights=None if zoo.lookup(model).checkpoint else sources.RANDOM)
    graph, folder = frontend.to_onnx(source), Path(place)
    pipeline.run_passes(graph, "nhwc")
    prepare(graph)
    tensors = insert_qdq.tensors_to_calibrate(graph, schemes.lookup("cpu"))
    ir.save(graph, folder / "model.onnx")
    train = datasets.load(data, "train")
    size = feeds.image_size(source, train)
    chosen = np.random.default_rng(0).permutation(len(train))[:images]
    with (folder / "images.f32").open("wb") as file:
        for start in range(0, len(chosen), BATCH):
            pixels = train.pixels(chosen[start : start + BATCH], size)
            ((name, batch),) = feeds.network_input(source, pixels).items()
            file.write(batch.astype(np.float32).tobytes())
    about = {"input": name, "shape": batch.shape[1:], "images": len(chosen), "tensors": tensors}
    (folder / "about.json").write_text(json.dumps(about), encoding="utf-8")
    return about


def batches(folder: Path, images: int) -> Iterator[Feeds]:
    """Read the prepared images, a batch at a time.

    Raises:
        ValueError: there are fewer.
    """
    from exporter.data.calibration_images import BATCH

    about = json.loads((folder / "about.json").read_text())
    if images > about["images"]:
        raise ValueError(f"{about['images']} images are prepared, not {images}")
    shape, size = about["shape"], int(np.prod(about["shape"]))
    with (folder / "images.f32").open("rb") as file:
        for start in range(0, images, BATCH):
            count = min(BATCH, images - start)
            batch = np.fromfile(file, np.float32, count * size)
            yield {about["input"]: batch.reshape(count, *shape)}


# One measurement, in its own process.


def measure(tool: str, folder: str, images: int) -> Sample:
    """Run a tool on prepared images. The process must be fresh.

    Returns:
        ``seconds``, ``images_per_s`` and ``peak_rss_mb`` of the whole process.
    """
    work = {"plain": _plain, "ours": _ours, "onnxruntime": _onnxruntime}[tool]
    work_on = work(Path(folder), images)  # imports before the clock starts
    started = time.perf_counter()
    work_on()
    seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    unit = 1 if sys.platform == "darwin" else 1024  # bytes there, kibibytes on Linux
    return {"seconds": seconds, "images_per_s": images / seconds, "peak_rss_mb": peak * unit / 1e6}


def _plain(folder: Path, images: int) -> Callable[[], object]:
    import onnxruntime

    def run() -> None:
        cpu = ["CPUExecutionProvider"]
        session = onnxruntime.InferenceSession(folder / "model.onnx", providers=cpu)
        for feeds in batches(folder, images):
            session.run(None, feeds)

    return run


def _ours(folder: Path, images: int) -> Callable[[], object]:
    import onnxruntime  # noqa: F401

    from calibration.collect import Options, collect
    from calibration.params import calibrate
    from exporter.data.calibration_images import open_session

    def run() -> object:
        graph = (folder / "model.onnx").read_bytes()
        tensors = json.loads((folder / "about.json").read_text())["tensors"]
        feeds, options = batches(folder, images), Options(method="entropy")
        found = collect(
            graph, tensors, feeds, images=images, open_session=open_session, options=options
        )
        ranges = found.histograms
        return calibrate(ranges, "entropy", images=images, graph="", data="", preprocessing="")

    return run


def _onnxruntime(folder: Path, images: int) -> Callable[[], object]:
    from onnxruntime.quantization.calibrate import (
        CalibrationDataReader,
        CalibrationMethod,
        create_calibrator,
    )

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.left = batches(folder, images)

        def get_next(self) -> Feeds | None:
            return next(self.left, None)

    def run() -> object:
        with tempfile.TemporaryDirectory() as scratch, contextlib.redirect_stdout(io.StringIO()):
            calibrator = create_calibrator(
                folder / "model.onnx",
                augmented_model_path=str(Path(scratch, "augmented.onnx")),
                calibrate_method=CalibrationMethod.Entropy,
            )
            calibrator.collect_data(Reader())
            return calibrator.compute_data()

    return run


# All measurements.


def measure_apart(tool: str, folder: Path, images: int) -> Sample:
    """Run :func:`measure` in a fresh process.

    This process stays small: Linux counts its memory in the peak of the processes it starts.
    """
    found = worker.need(*study.job(measure, tool, folder, images))
    return {"tool": tool, "images": images, **found}


def run(
    folder: Path, few: int, many: int, rounds: int, seed: int, say: Callable[[str], None]
) -> list[Sample]:
    """Measure plain inference and ours, in an order drawn each round; then onnxruntime's, once."""
    order, samples = random.Random(seed), []

    def take(tool: str, images: int, number: int) -> Sample:
        sample = {"round": number, **measure_apart(tool, folder, images)}
        rate, peak = sample["images_per_s"], sample["peak_rss_mb"]
        say(f"{tool}: {images} images, {rate:.1f} images/s, peak {peak:.0f} MB")
        samples.append(sample)
        return sample

    for number in range(rounds):
        turns = [("plain", many), ("ours", few), ("ours", many)]
        order.shuffle(turns)
        for tool, images in turns:
            take(tool, images, number)
    probes = [min(count, many) for count in PROBES]
    small, larger = (take("onnxruntime", count, 0)["peak_rss_mb"] for count in probes)
    held = can_hold((larger - small) / max(probes[1] - probes[0], 1), free_mb() / 2, many)
    if held > probes[1]:
        take("onnxruntime", held, 0)
    return samples


def can_hold(mb_an_image: float, memory_mb: float, most: int) -> int:
    """Return how many images fit into a memory, in whole batches: at least one, ``most`` at most.

    onnxruntime's calibrator fails if the last batch is smaller than the others.
    """
    from exporter.data.calibration_images import BATCH

    held = most if mb_an_image <= 0 else min(most, int(memory_mb / mb_an_image))
    return max(held // BATCH, 1) * BATCH


def free_mb() -> float:
    """Return the memory that a new process can have without swapping, in MB.

    Raises:
        Missing: this system does not tell.
    """
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError as error:
        raise Missing(f"no /proc/meminfo here: {error}") from error
    (kibibytes,) = (line.split()[1] for line in lines if line.startswith("MemAvailable:"))
    return float(kibibytes) * 1024 / 1e6


def summarize(samples: Sequence[Sample], few: int, many: int) -> dict[str, Any]:
    """Return medians, and the ratios of throughput and peak memory that we promise."""
    held = max(s["images"] for s in samples if s["tool"] == "onnxruntime")
    pairs = [("plain", many), ("ours", few), ("ours", many), ("onnxruntime", held)]
    rows = []
    for tool, images in pairs:
        own = [s for s in samples if (s["tool"], s["images"]) == (tool, images)]
        names = ("images_per_s", "peak_rss_mb")
        medians = {name: statistics.median(float(s[name]) for s in own) for name in names}
        rows.append({"tool": tool, "images": images, **medians})
    plain, ours_few, ours, theirs = rows
    return {
        "rows": rows,
        "throughput_ours_to_plain": ours["images_per_s"] / plain["images_per_s"],
        "peak_memory_many_to_few": ours["peak_rss_mb"] / ours_few["peak_rss_mb"],
        "throughput_ours_to_onnxruntime": ours["images_per_s"] / theirs["images_per_s"],
        "onnxruntime_held_images": held,
    }


def show(summary: dict[str, Any]) -> None:
    """Print the medians and the ratios."""
    rows = []
    for row in summary["rows"]:
        rate, peak = f"{row['images_per_s']:.1f}", f"{row['peak_rss_mb']:.0f}"
        rows.append((row["tool"], str(row["images"]), rate, peak))
    columns = ("tool", "images", "images/s", "peak MB")
    console.table("Entropy calibration, medians", columns, rows)
    for what, value in summary.items():
        if what != "rows":
            console.say(f"{what}: {value:.3g}")


@study.command("calibration_cost", "calibration_cost.json")
@click.option("--model", type=click.Choice(list(zoo.ZOO)), default="resnet18")
@study.data
@click.option("--images", type=click.IntRange(min=2), default=10_000)
@click.option("--few", type=study.COUNT, default=500, help="Images to compare memory with.")
@click.option("--rounds", type=study.COUNT, default=3)
@click.option("--seed", default=0, help="Of the order.")
def main(log: Run, model: str, data: str, images: int, few: int, rounds: int, seed: int) -> None:
    """Measure what entropy calibration of a zoo model costs in time and memory."""
    if few >= images:
        raise click.UsageError(f"--few {few} must be less than --images {images}")
    log.start(model=model, data=data, scheme="cpu", seed=seed, rounds=rounds)
    with tempfile.TemporaryDirectory(prefix="calibration-cost-") as name:
        worker.need(*study.job(prepare, model, data, images, name))
        samples = run(Path(name), few, images, rounds, seed, log.say)
    log.save(results=summarize(samples, few, images), samples=samples)
    show(log.report["results"])


if __name__ == "__main__":
    command.run(main)
