"""Real TensorRT-RTX builds of the whole zoo: a row per model and precision, with no GPU.

NVIDIA's own parser and builder take every graph that ``exporter export --to trt-rtx`` makes, or
this fails. Each model is converted once and typed for each precision by the export's own steps;
only the comparison with Keras is left to the tests. Models without shipped weights get random
ones, with activations no larger than a trained network's: that changes neither which ops there are
nor how many bytes they take. Each is calibrated on a few real images: enough for scales that a
builder takes, and no statement about accuracy. Plans are built, not run: nothing here says how fast
they are.

``python -m benchmarks.studies.rtx_builds [--output FILE]``; exit code 1 when a graph is refused, 3
when
ResNet-18's INT8 or FP8 plan is over a third of FP32's, or FP16's roundings, simulated, change a
network's logits by more than roundings do.
"""

from __future__ import annotations

import gc
import math
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import click
from rich.console import Console
from rich.table import Table

from benchmarks import command, result_file
from exporter import pipeline, targets
from exporter.artifact import serialize
from exporter.artifact.folder import MODEL
from exporter.config import QUANTIZED, Batch, Calibration, ExportConfig, Precision
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
# What a layer's rounding takes of its largest value: FP16's, half of one of 127 steps, and for FP8
# see check_rounding.
_ROUNDOFF = {"fp16": 2.0**-11, "int8": 2.0**-8, "fp8": 2.0**-6}
# Weights are nearly all of a plan: 8 bits are a quarter, and some for what has no such weights.
HELD = "resnet18"
MOST_OF_FP32 = 1 / 3

Row = dict[str, Any]


def precisions() -> tuple[Precision, ...]:
    """Return what the target does."""
    return targets.lookup(TARGET).precisions


@dataclass(frozen=True)
class Converted:
    """One model's graph in float32, from which every precision is made."""

    source: Source
    graph: bytes
    cpu_seconds: float


def load(model: str) -> Source:
    """Load a zoo model; without shipped weights, with random ones that are like trained ones.

    Fresh residual branches each add as much as there is, so that activations double from block
    to block and leave FP16's range, and weights behind them would stay FP32.
    """
    if zoo.ZOO[model].checkpoint:
        return sources.load(model)
    source = sources.load(model, weights=sources.RANDOM)
    for variable in source.model.trainable_variables:
        if variable.path.endswith("/gamma"):
            variable.assign(variable * _GAMMA)
    return source


def convert(source: Source) -> Converted:
    """Take a network to its folded graph, as an export does."""
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
        folder: empty; the plan goes there.

    Returns:
        ``plan_bytes``, ``onnx_bytes``, ``build_seconds``, ``cpu_seconds`` of typing and building,
        ``warnings``, ``convolutions``; of INT8 and FP8 ``kept_float`` (layers without a kernel);
        of FP16 ``kept_fp32`` (nodes that it can't hold) and
        ``rounding``, what its simulation changes of the largest logit. Or ``error``.
    """
    config = ExportConfig(
        converted.source.name,
        TARGET,
        folder,
        precision,
        data=images,
        batch=_BATCH,
        check_images=1,
        calibration=Calibration("minmax", _IMAGES),
    )
    row: Row = {"model": converted.source.name, "precision": precision}
    started = time.process_time()
    try:
        found = _export(converted, config)
    except ExporterError as error:
        return {**row, "error": str(error)}
    return {
        **row,
        "plan_bytes": (folder / ENGINE).stat().st_size,
        "onnx_bytes": (folder / MODEL).stat().st_size,
        "cpu_seconds": round(time.process_time() - started, 1),
        **found,
    }


def _export(converted: Converted, config: ExportConfig) -> Row:
    """Write graph and plan; return what a passport would tell of them."""
    import onnx
    import onnx_ir as ir

    from exporter.precision import apply as precision

    target = targets.lookup(TARGET)
    graph = ir.from_proto(onnx.load_model_from_string(converted.graph))
    feeds, _ = check_feeds(config, converted.source, silent)
    typed = precision.apply(graph, converted.source, config, target, feeds, silent)
    (config.output / MODEL).write_bytes(typed.data or converted.graph)
    build = targets.Build(config.batch, config.precision, config.build)
    section = target.load().compile(config.output, build).section
    kept = [node for report in typed.reports if report.name == "to_fp16" for node in report.kept]
    against = typed.fields.get("fp16", {}).get("simulated_against_untyped", {})
    return {
        "build_seconds": section["build_seconds"],
        "warnings": section["warnings"],
        "convolutions": sum(node.op_type == "Conv" for node in graph.graph),
        "kept_float": sum(
            len(report.kept) for report in typed.reports if report.name == "insert_qdq"
        ),
        "kept_fp32": len(kept),
        "rounding": against.get("max_relative_error"),
    }


def few_images(folder: Path) -> str:
    """Write a few real images as a data set: choosing them anew each time takes most of a build."""
    from PIL import Image

    for split, count in (("train", _IMAGES), ("test", 1)):
        data = datasets.load("fashion-mnist", split)  # type: ignore[arg-type]
        place = folder / split / "any"
        place.mkdir(parents=True)
        for index, image in enumerate(data.pixels(range(count), (28, 28))):
            Image.fromarray(image[..., 0]).save(place / f"{index}.png")
    return f"folder:{folder}"


def build_all(models: Sequence[str], wanted: Sequence[Precision]) -> Iterator[Row]:
    """Build every model in every precision, each plan deleted before the next."""
    from exporter.network.keras_env import load_keras

    keras = load_keras()
    with tempfile.TemporaryDirectory(prefix="rtx-images-") as place:
        images = few_images(Path(place))
        for model in models:
            converted = convert(load(model))
            for precision in wanted:
                with tempfile.TemporaryDirectory(prefix="rtx-builds-") as folder:
                    row = build(converted, precision, images, Path(folder))
                    yield {**row, "conversion_cpu_seconds": converted.cpu_seconds}
            keras.backend.clear_session()
            gc.collect()


def cpu_seconds(rows: Sequence[Row]) -> float:
    """Add up processor time, each model's conversion once."""
    conversions = {row["model"]: row.get("conversion_cpu_seconds", 0.0) for row in rows}
    builds = [row.get("cpu_seconds", 0.0) for row in rows]
    return float(round(sum(conversions.values()) + sum(builds), 1))


def check_size(rows: Sequence[Row]) -> None:
    """Hold ResNet-18's plans of 8 bits to their share of the FP32 plan, where both were built.

    Raises:
        GateRefused: one is larger.
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
    """Hold FP16's simulation to what roundings can do.

    Each layer rounds by 2**-11 to either side, and these add as a walk does; four times that. Amid
    INT8 such a rounding moves some values to the next of 127 steps, so each layer is off by as much
    as INT8 itself, 2**-8. Amid FP8 one value in 2**7 or so is so near a tie of E4M3 that it moves,
    by a step of 2**-3 of itself: 2**-6.5 in the mean of squares, taken as 2**-6. (Another CPU sums
    in another order, which moves others: a deep network of random weights was off by 0.08 on one
    and by 0.11 on another, for the same graph in INT8.)

    Raises:
        GateRefused: one is off by more.
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


def table(rows: Sequence[Row]) -> Table:
    """Show the rows; each plan also as a share of the same model's FP32 plan."""
    fp32 = {row["model"]: row.get("plan_bytes") for row in rows if row["precision"] == "fp32"}
    shown = Table(title="TensorRT-RTX builds, no GPU", title_justify="left")
    shown.add_column("model")
    for column in ("precision", "plan MB", "of FP32", "kept FP32", "build s", "CPU s", "warnings"):
        shown.add_column(column, justify="right")
    for row in rows:
        if "error" in row:
            shown.add_row(row["model"], row["precision"], "refused", *"-----")
            continue
        whole = fp32.get(row["model"])
        shown.add_row(
            row["model"],
            row["precision"],
            f"{row['plan_bytes'] / 1e6:.1f}",
            f"{row['plan_bytes'] / whole:.2f}" if whole else "-",
            str(row["kept_fp32"]),
            f"{row['build_seconds']:.2f}",
            f"{row['cpu_seconds']:.1f}",
            str(len(row["warnings"])),
        )
    return shown


def markdown(rows: Sequence[Row]) -> str:
    """Return the README's table: a line a model, megabytes by precision, all of them built."""
    names = precisions()
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


def _write(header: Row, rows: Sequence[Row], output: Path) -> None:
    report = {
        **header,
        "batch": [_BATCH.minimum, _BATCH.usual, _BATCH.maximum],
        "executed": "built, not run on a GPU",
        "cpu_seconds": cpu_seconds(rows),
        "results": rows,
    }
    output.parent.mkdir(parents=True, exist_ok=True)
    result_file.write(report, output)


def _names(_: click.Context, option: click.Parameter, text: str | None) -> tuple[str, ...]:
    """Split a list at its commas; all names where none is given."""
    known = tuple(zoo.ZOO) if option.name == "models" else precisions()
    if text is None:
        return known
    names = tuple(name.strip() for name in text.split(","))
    if unknown := set(names) - set(known):
        raise click.BadParameter(f"{', '.join(sorted(unknown))}; known: {', '.join(known)}")
    return names


@click.command()
@click.option("--models", callback=_names, help="Zoo names, comma between; default: all.")
@click.option(
    "--precisions",
    "wanted",
    callback=_names,
    help=f"Of {', '.join(get_args(Precision))}; default: all that trt-rtx does.",
)
@click.option("-o", "--output", type=click.Path(path_type=Path, dir_okay=False), help="JSON file.")
def main(models: tuple[str, ...], wanted: tuple[Precision, ...], output: Path | None) -> None:
    """Build TensorRT-RTX plans of the zoo; exit 1: one is refused, 3: too large, FP16 off."""
    targets.lookup(TARGET).load()  # missing: say so before the first conversion
    log = Console(stderr=True, highlight=False)
    header = result_file.header("studies.rtx_builds")
    rows: list[Row] = []
    for row in build_all(models, wanted):
        said = row.get("error") or f"{row['plan_bytes'] / 1e6:.1f} MB, {row['cpu_seconds']} s CPU"
        log.print(f"{row['model']} {row['precision']}: {said}", soft_wrap=True)
        rows.append(row)
        if output is not None:  # each time: an interrupted run leaves what it has
            _write(header, rows, output)
    Console().print(table(rows))
    Console().print(f"{cpu_seconds(rows):.0f} s of CPU time, conversions included")
    if any("error" in row for row in rows):
        raise click.exceptions.Exit(1)
    check_size(rows)
    check_rounding(rows)


if __name__ == "__main__":
    command.run(main)
