"""What entropy calibration costs: against plain inference, and against onnxruntime's own.

Every measurement has a process of its own. Its clock runs from opening the session to the last
result: for ``plain`` the logits of all images, for ``ours`` the ranges that ``calibration``
chooses, for ``onnxruntime`` those of ``onnxruntime.quantization``'s entropy calibrator with its
defaults. All read the same preprocessed float32 images from a file, a batch at a time, so that
neither reading pictures nor holding them counts. ``plain`` has onnxruntime's default session,
which spins; that favors it.

onnxruntime's calibrator keeps every activation, so it gets as many images as half of the free
memory holds, judged by how two small runs of it grew.

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
from rich.console import Console
from rich.table import Table

from benchmarks import command, result_file
from benchmarks.latency import worker
from exporter.models import zoo

if TYPE_CHECKING:
    import numpy.typing as npt

TOOLS = ("plain", "ours", "onnxruntime")
RESULTS = Path(__file__).parents[1] / "results" / "calibration_cost.json"
PROBES = (16, 64)  # images that onnxruntime's calibrator is tried on first

Sample = dict[str, Any]
Feeds = dict[str, "npt.NDArray[np.float32]"]


# What is measured: a folder that every process reads.


def prepare(model: str, data: str, images: int, folder: Path) -> None:
    """Write a zoo model's folded graph, its tensors to calibrate, and training images for it."""
    import onnx_ir as ir

    from exporter import pipeline
    from exporter.data import datasets, feeds
    from exporter.data.calibration_images import BATCH
    from exporter.network import frontend, sources
    from exporter.passes import insert_qdq, schemes
    from exporter.precision.measure import prepare

    source = sources.load(model, weights=None if zoo.lookup(model).checkpoint else sources.RANDOM)
    graph = frontend.to_onnx(source)
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


def measure(tool: str, folder: Path, images: int) -> Sample:
    """Run a tool on prepared images, in this process, which must be fresh.

    Returns:
        ``seconds``, ``images_per_s`` and ``peak_rss_mb`` of the whole process.
    """
    work = {"plain": _plain, "ours": _ours, "onnxruntime": _onnxruntime}[tool]
    work_on = work(folder, images)  # imports before the clock starts
    started = time.perf_counter()
    work_on()
    seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    unit = 1 if sys.platform == "darwin" else 1024  # bytes there, kibibytes on Linux
    return {"seconds": seconds, "images_per_s": images / seconds, "peak_rss_mb": peak * unit / 1e6}


def _plain(folder: Path, images: int) -> Callable[[], object]:
    import onnxruntime

    def run() -> None:
        session = onnxruntime.InferenceSession(
            folder / "model.onnx", providers=["CPUExecutionProvider"]
        )
        for feeds in batches(folder, images):
            session.run(None, feeds)

    return run


def _ours(folder: Path, images: int) -> Callable[[], object]:
    import onnxruntime  # noqa: F401

    from calibration.collect import Options, collect
    from calibration.params import calibrate
    from exporter.data.calibration_images import open_session

    def run() -> object:
        found = collect(
            (folder / "model.onnx").read_bytes(),
            json.loads((folder / "about.json").read_text())["tensors"],
            batches(folder, images),
            images=images,
            open_session=open_session,
            options=Options(method="entropy"),
        )
        return calibrate(
            found.histograms, "entropy", images=images, graph="", data="", preprocessing=""
        )

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

    This process stays small: Linux counts its memory in the peak of what it starts.
    """
    job = json.dumps([tool, str(folder), images])
    found = worker.need("benchmarks.studies.calibration_cost:measured", job)
    return {"tool": tool, "images": images, **found}


def measured(job: str) -> worker.Answer:
    """Measure what a job says, in a process of its own."""
    tool, folder, images = json.loads(job)
    return measure(tool, Path(folder), images)


def prepared(job: str) -> worker.Answer:
    """Prepare what a job says, in a process of its own."""
    model, data, images, folder = json.loads(job)
    prepare(model, data, images, Path(folder))
    return {"images": images}


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
    """Return how many images fit in a memory, ``most`` at most, in whole batches, at least one.

    onnxruntime's calibrator fails where the last batch is smaller than the others.
    """
    from exporter.data.calibration_images import BATCH

    held = most if mb_an_image <= 0 else min(most, int(memory_mb / mb_an_image))
    return max(held // BATCH, 1) * BATCH


def free_mb() -> float:
    """Return the memory that a new process can have without swapping, in MB.

    Raises:
        click.ClickException: this system does not say.
    """
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError as error:
        raise click.ClickException(f"no /proc/meminfo here: {error}") from error
    (kibibytes,) = (line.split()[1] for line in lines if line.startswith("MemAvailable:"))
    return float(kibibytes) * 1024 / 1e6


def summarize(samples: Sequence[Sample], few: int, many: int) -> dict[str, Any]:
    """Return medians, and the two ratios that are promised: throughput and peak memory."""

    def median(tool: str, images: int, what: str) -> float:
        return statistics.median(
            float(s[what]) for s in samples if s["tool"] == tool and s["images"] == images
        )

    held = max(s["images"] for s in samples if s["tool"] == "onnxruntime")
    pairs = [("plain", many), ("ours", few), ("ours", many), ("onnxruntime", held)]
    rows = [
        {
            "tool": tool,
            "images": images,
            "images_per_s": median(tool, images, "images_per_s"),
            "peak_rss_mb": median(tool, images, "peak_rss_mb"),
        }
        for tool, images in pairs
    ]
    plain, ours_few, ours, theirs = rows
    return {
        "rows": rows,
        "throughput_ours_to_plain": ours["images_per_s"] / plain["images_per_s"],
        "peak_memory_many_to_few": ours["peak_rss_mb"] / ours_few["peak_rss_mb"],
        "throughput_ours_to_onnxruntime": ours["images_per_s"] / theirs["images_per_s"],
        "onnxruntime_held_images": held,
    }


def table(summary: dict[str, Any]) -> Table:
    """Show the medians."""
    shown = Table(title="Entropy calibration, medians", title_justify="left")
    for column in ("tool", "images", "images/s", "peak MB"):
        shown.add_column(column, justify="left" if column == "tool" else "right")
    for row in summary["rows"]:
        rate, peak = f"{row['images_per_s']:.1f}", f"{row['peak_rss_mb']:.0f}"
        shown.add_row(row["tool"], str(row["images"]), rate, peak)
    return shown


@click.command()
@click.option("--model", type=click.Choice(list(zoo.ZOO)), default="resnet18", show_default=True)
@click.option("--data", default="fashion-mnist", show_default=True, help="As exporter takes it.")
@click.option("--images", type=click.IntRange(min=2), default=10_000, show_default=True)
@click.option(
    "--few", type=click.IntRange(min=1), default=500, show_default=True, help="To compare memory."
)
@click.option("--rounds", type=click.IntRange(min=1), default=3, show_default=True)
@click.option("--seed", type=int, default=0, show_default=True, help="Of the order.")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    default=RESULTS,
    help="JSON file; default: benchmarks/results/calibration_cost.json.",
)
def main(
    model: str,
    data: str,
    images: int,
    few: int,
    rounds: int,
    seed: int,
    output: Path,
) -> None:
    """Measure what entropy calibration of a zoo model costs in time and memory."""
    if few >= images:
        raise click.UsageError(f"--few {few} must be less than --images {images}")
    report: dict[str, Any] = {
        **result_file.header("studies.calibration_cost"),
        **{"model": model, "data": data, "scheme": "cpu", "seed": seed, "rounds": rounds},
    }
    output.parent.mkdir(parents=True, exist_ok=True)
    progress = Console(stderr=True, highlight=False)
    with tempfile.TemporaryDirectory(prefix="calibration-cost-") as name:
        job = json.dumps([model, data, images, name])
        worker.need("benchmarks.studies.calibration_cost:prepared", job)
        samples = run(Path(name), few, images, rounds, seed, progress.print)
    report["results"] = summarize(samples, few, images)
    report["samples"] = samples
    result_file.write(report, output)
    console = Console()
    console.print(table(report["results"]))
    for what, value in report["results"].items():
        if what != "rows":
            console.print(f"{what}: {value:.3g}", highlight=False)
    console.print(f"all samples: {output}", highlight=False, soft_wrap=True)


if __name__ == "__main__":
    command.run(main)
