"""Real TensorRT-RTX builds of the whole zoo, with no GPU: a row per model and precision.

NVIDIA's own parser and builder must take every graph that ``exporter export --to trt-rtx`` makes.
Each model is converted once, and typed for each precision by the export's own steps. Only the
comparison with Keras is left to the tests. Models without shipped weights get random ones, with
activations no larger than a trained network's. That changes neither which ops there are nor how
many bytes they take. Each model is calibrated on a few real images: enough for scales that a
builder accepts, but too few to judge accuracy. Plans are built and not run, so nothing here tells
how fast they are.

``python -m benchmarks.studies.rtx_builds [--output FILE]``. Exit code 1: a graph is refused. Exit
code 3: ResNet-18's INT8 or FP8 plan is over a third of FP32's, or FP16's simulated roundings change
a network's logits by more than roundings can.
"""

from __future__ import annotations

import gc
import math
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from benchmarks import command
from benchmarks.studies import study
from benchmarks.studies.study import Run
from exporter import pipeline, targets
from exporter.artifact import serialize
from exporter.artifact.folder import MODEL
from exporter.cli import console
from exporter.config import QUANTIZED, Batch, ExportConfig, Precision
from exporter.data import datasets
from exporter.data.feeds import check_feeds
from exporter.engines.record import ENGINE
from exporter.errors import ExporterError, GateRefused
from exporter.models import zoo
from exporter.network import sources
from exporter.network.sources import Source
from exporter.progress import silent

TARGET = "trt-rtx"
_BATCH = Batch(1, 8, 32)
_IMAGES = 2
_GAMMA = 0.5
# The error of a layer's rounding, as a share of its largest value: FP16's own, half of one of 127
# steps, and FP8's as check_rounding explains.
_ROUNDOFF = {"fp16": 2.0**-11, "int8": 2.0**-8, "fp8": 2.0**-6}
# Weights are nearly all of a plan. In 8 bits they take a quarter; the rest takes some more.
HELD = "resnet18"
MOST_OF_FP32 = 1 / 3

Row = dict[str, Any]


def precisions() -> tuple[Precision, ...]:
    """Return the precisions of the target."""
    return targets.lookup(TARGET).precisions


@dataclass(frozen=True)
class Converted:
    """One model's graph in float32. Every precision is made from it."""

    source: Source
    graph: bytes
    cpu_seconds: float


def load(model: str) -> Source:
    """Load a zoo model. Without shipped weights, it gets random ones that resemble trained ones.

    Each fresh residual branch adds as much as its input has. So activations would double from block
    to block and leave FP16's range, and the weights behind them would stay FP32.
    """
    if zoo.ZOO[model].checkpoint:
        return sources.load(model)
    source = sources.load(model, weights=sources.RANDOM)
    for variable in source.model.trainable_variables:
        if variable.path.endswith("/gamma"):
            variable.assign(variable * _GAMMA)
    return source


def convert(source: Source) -> Converted:
    """Convert a network to its folded graph, as an export does."""
    from exporter.network import frontend

    started = time.process_time()
    graph = frontend.to_onnx(source)
    pipeline.run_passes(graph, "nhwc")
    data = serialize.checked_bytes(graph)
    return Converted(source, data, round(time.process_time() - started, 1))


def build(converted: Converted, precision: Precision, images: str, folder: Path) -> Row:
    """Type one graph and build its plan, as an export does.

    Args:
        converted: the graph.
        precision: of the plan.
        images: a data set to measure ranges on.
        folder: empty; graph and plan go there.

    Returns:
        ``plan_bytes``, ``onnx_bytes``, ``build_seconds``, ``cpu_seconds`` of typing and building,
        ``warnings``, ``convolutions``. For INT8 and FP8, ``kept_float`` counts the layers without a
        kernel. For FP16, ``kept_fp32`` counts the nodes that it can't hold, and ``rounding`` is how
        much its simulation changes the logits, as a share of the largest.

    Raises:
        ExporterError: the graph is refused.
    """
    import onnx
    import onnx_ir as ir

    from exporter.precision.apply import apply

    asked: Row = {"data": images, "batch": _BATCH, "check_images": 1}
    asked |= {"calibrator": "minmax", "calibration_images": _IMAGES}
    config = ExportConfig(converted.source.name, TARGET, folder, precision, **asked)
    started, target = time.process_time(), targets.lookup(TARGET)
    graph = ir.from_proto(onnx.load_model_from_string(converted.graph))
    feeds, _ = check_feeds(config, converted.source, silent)
    typed = apply(graph, converted.source, config, target, feeds, silent)
    (folder / MODEL).write_bytes(typed.data or converted.graph)
    section = target.load().compile(folder, targets.Build(_BATCH, precision, config.build)).section
    kept = {report.name: len(report.kept) for report in typed.reports}
    halved = typed.fields.get("fp16", {}).get("simulated_against_untyped", {})
    return {
        "plan_bytes": (folder / ENGINE).stat().st_size,
        "onnx_bytes": (folder / MODEL).stat().st_size,
        "cpu_seconds": round(time.process_time() - started, 1),
        "build_seconds": section["build_seconds"],
        "warnings": section["warnings"],
        "convolutions": sum(node.op_type == "Conv" for node in graph.graph),
        "kept_float": kept.get("insert_qdq", 0),
        "kept_fp32": kept.get("to_fp16", 0),
        "rounding": halved.get("max_relative_error"),
    }


def few_images(folder: Path) -> str:
    """Write a few real images as a data set. To choose them anew would take most of a build."""
    from PIL import Image

    for split, count in (("train", _IMAGES), ("test", 1)):
        data = datasets.load("fashion-mnist", split)  # type: ignore[arg-type]
        place = folder / split / "any"
        place.mkdir(parents=True)
        for index, image in enumerate(data.pixels(range(count), (28, 28))):
            Image.fromarray(image[..., 0]).save(place / f"{index}.png")
    return f"folder:{folder}"


def build_all(models: Sequence[str], wanted: Sequence[Precision]) -> Iterator[Row]:
    """Build every model in every precision. Each plan is deleted before the next."""
    from exporter.network.keras_env import load_keras

    keras = load_keras()
    with tempfile.TemporaryDirectory(prefix="rtx-images-") as place:
        images = few_images(Path(place))
        for model in models:
            converted = convert(load(model))
            for precision in wanted:
                row: Row = {"model": model, "precision": precision}
                with tempfile.TemporaryDirectory(prefix="rtx-builds-") as folder:
                    try:
                        row |= build(converted, precision, images, Path(folder))
                    except ExporterError as error:
                        row["error"] = str(error)
                yield {**row, "conversion_cpu_seconds": converted.cpu_seconds}
            keras.backend.clear_session()
            gc.collect()


def cpu_seconds(rows: Sequence[Row]) -> float:
    """Add up processor time, each model's conversion once."""
    conversions = {row["model"]: row.get("conversion_cpu_seconds", 0.0) for row in rows}
    builds = [row.get("cpu_seconds", 0.0) for row in rows]
    return float(round(sum(conversions.values()) + sum(builds), 1))


def check_size(rows: Sequence[Row]) -> None:
    """Check that ResNet-18's 8-bit plans are small beside its FP32 plan, if both were built.

    Raises:
        GateRefused: one is too large.
    """
    sizes = {row["precision"]: row.get("plan_bytes") for row in rows if row["model"] == HELD}
    fp32 = sizes.get("fp32")
    for name in QUANTIZED:
        size = sizes.get(name)
        if fp32 and size and size > MOST_OF_FP32 * fp32:
            raise GateRefused(
                f"{HELD}'s {name.upper()} plan has {size:,} bytes, which is {size / fp32:.2f} of "
                f"FP32's {fp32:,}",
                hint="at most a third is allowed: are weights left in floating point?",
            )


def check_rounding(rows: Sequence[Row]) -> None:
    """Check that FP16's simulation changes no more than roundings can.

    Each layer rounds by 2**-11 to either side, and these errors add up like a random walk; four
    times that is allowed. With INT8, such a rounding moves some values to the next of 127 steps, so
    each layer is off by as much as INT8 itself, 2**-8. With FP8, about one value in 2**7 is so near
    a tie of E4M3 that it moves by a step, 2**-3 of itself: 2**-6.5 in the mean of squares, taken as
    2**-6. (Another CPU sums in another order, which moves other values. One deep network of random
    weights was off by 0.08 on one CPU and by 0.11 on another, for the same graph in INT8.)

    Raises:
        GateRefused: one changes more.
    """
    for row in rows:
        if row.get("rounding") is None:
            continue
        limit = 4 * math.sqrt(row["convolutions"]) * _ROUNDOFF[row["precision"]]
        if not row["rounding"] <= limit:
            raise GateRefused(
                f"{row['model']} in {row['precision']}: FP16 changes the logits by "
                f"{row['rounding']:.2g} of the largest, where {limit:.2g} is allowed"
            )


COLUMNS = ("model", "precision", "plan MB", "of FP32", "kept FP32", "build s", "CPU s", "warnings")


def cells(rows: Sequence[Row]) -> Iterator[list[str]]:
    """Yield the table's rows. Each plan also has its share of the same model's FP32 plan."""
    fp32 = {row["model"]: row.get("plan_bytes") for row in rows if row["precision"] == "fp32"}
    for row in rows:
        name = [row["model"], row["precision"]]
        if "error" in row:
            yield [*name, "refused", *"-----"]
            continue
        whole = fp32.get(row["model"])
        share = f"{row['plan_bytes'] / whole:.2f}" if whole else "-"
        seconds = [f"{row['build_seconds']:.2f}", f"{row['cpu_seconds']:.1f}"]
        sizes = [f"{row['plan_bytes'] / 1e6:.1f}", share, str(row["kept_fp32"])]
        yield [*name, *sizes, *seconds, str(len(row["warnings"]))]


def markdown(report: Row) -> str:
    """Return the table of docs/results.md: megabytes by model and precision."""
    rows, names = report["results"], precisions()
    sizes = {(row["model"], row["precision"]): row["plan_bytes"] for row in rows}
    quantized = [name for name in names if name in QUANTIZED]
    shares = [f"{name.upper()} of FP32" for name in quantized]
    columns = [*(f"{name}, MB" for name in names), *shares]
    lines = [f"| model | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
    for model in dict.fromkeys(row["model"] for row in rows):
        cells = [f"{sizes[model, name] / 1e6:.1f}" for name in names]
        cells += [f"{sizes[model, name] / sizes[model, 'fp32']:.2f}" for name in quantized]
        lines.append(f"| `{model}` | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


@study.command("rtx_builds")
@click.option(
    "--models",
    callback=study.listed(click.Choice(list(zoo.ZOO))),
    default=",".join(zoo.ZOO),
    show_default="all",
    help="Zoo names, separated by commas.",
)
@click.option(
    "--precisions",
    "wanted",
    callback=study.listed(click.Choice(precisions())),
    default=",".join(precisions()),
    help="Separated by commas.",
)
def main(log: Run, models: tuple[str, ...], wanted: tuple[Precision, ...]) -> None:
    """Build TensorRT-RTX plans of the zoo. Exit code 1: one is refused; 3: too large, FP16 off."""
    targets.lookup(TARGET).load()  # if it is missing, fail before the first conversion
    batch = [_BATCH.minimum, _BATCH.usual, _BATCH.maximum]
    log.start(batch=batch, executed="built, not run on a GPU")
    rows: list[Row] = []
    for row in build_all(models, wanted):
        said = row.get("error") or f"{row['plan_bytes'] / 1e6:.1f} MB, {row['cpu_seconds']} s CPU"
        log.say(f"{row['model']} {row['precision']}: {said}")
        rows.append(row)
        log.save(cpu_seconds=cpu_seconds(rows), results=rows)
    console.table("TensorRT-RTX builds, no GPU", COLUMNS, list(cells(rows)))
    console.say(f"{cpu_seconds(rows):.0f} s of CPU time, conversions included")
    if any("error" in row for row in rows):
        raise click.exceptions.Exit(1)
    check_size(rows)
    check_rounding(rows)


if __name__ == "__main__":
    command.run(main)
