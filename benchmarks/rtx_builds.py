"""Real TensorRT-RTX builds of the whole zoo: a row per model and precision, with no GPU.

NVIDIA's own parser and builder take every graph that ``exporter export --to trt-rtx`` makes, or
this fails. Models without shipped weights get random ones: that changes neither which ops there
are nor how many bytes they take. Each is calibrated on a few real images: enough for scales
that a builder takes, and no statement about accuracy. Plans are built, not run: nothing here says
how fast they are.

``python -m benchmarks.rtx_builds [--output FILE]``; exit code 1 when a graph is refused, 3 when
ResNet-18's INT8 plan is over a third of FP32's.
"""

from __future__ import annotations

import gc
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, get_args

import click
from rich.console import Console
from rich.table import Table

from benchmarks import result_file
from exporter import targets
from exporter.artifact import MODEL
from exporter.config import Batch, ExportConfig, Precision
from exporter.engine_record import ENGINE
from exporter.errors import ExporterError, GateRefused
from exporter.models import zoo

TARGET = "trt-rtx"
_BATCH = Batch(1, 8, 32)
# Weights are nearly all of a plan: INT8 is a quarter, and some for what has no INT8 weights.
HELD = "resnet18"
MOST_OF_FP32 = 1 / 3

Row = dict[str, Any]


def precisions() -> tuple[Precision, ...]:
    """Return what the target does."""
    return targets.lookup(TARGET).precisions


def build(model: str, precision: Precision, folder: Path) -> Row:
    """Export one model to a plan.

    Returns:
        ``plan_bytes``, ``onnx_bytes``, ``build_seconds``, ``cpu_seconds`` of the whole export and
        ``warnings``; or ``error``.
    """
    from exporter import pipeline

    config = ExportConfig(
        model=model,
        target=TARGET,
        output=folder / f"{model}-{precision}",
        precision=precision,
        weights=None if zoo.ZOO[model].checkpoint else "random",
        batch=_BATCH,
        check_images=2,  # the proof against Keras is the tests' business
        calibrator="minmax",
        calibration_images=16,
    )
    row: Row = {"model": model, "precision": precision}
    started = time.process_time()
    try:
        passport = pipeline.export(config).passport
    except ExporterError as error:
        return {**row, "error": str(error)}
    plan = passport[TARGET]
    return {
        **row,
        "plan_bytes": passport["files"][ENGINE]["bytes"],
        "onnx_bytes": passport["files"][MODEL]["bytes"],
        "build_seconds": plan["build_seconds"],
        "cpu_seconds": round(time.process_time() - started, 1),
        "warnings": plan["warnings"],
    }


def build_all(models: Sequence[str], wanted: Sequence[Precision]) -> Iterator[Row]:
    """Build every model in every precision, each plan deleted before the next."""
    from exporter.keras_env import load_keras

    keras = load_keras()
    for model in models:
        for precision in wanted:
            with tempfile.TemporaryDirectory(prefix="rtx-builds-") as folder:
                yield build(model, precision, Path(folder))
            keras.backend.clear_session()
            gc.collect()


def check_size(rows: Sequence[Row]) -> None:
    """Hold ResNet-18's INT8 plan to its share of the FP32 plan, where both were built.

    Raises:
        GateRefused: it is larger.
    """
    sizes = {row["precision"]: row.get("plan_bytes") for row in rows if row["model"] == HELD}
    fp32, int8 = sizes.get("fp32"), sizes.get("int8")
    if fp32 and int8 and int8 > MOST_OF_FP32 * fp32:
        raise GateRefused(
            f"{HELD}'s INT8 plan has {int8:,} bytes, which is {int8 / fp32:.2f} of FP32's {fp32:,}",
            hint="at most a third is allowed: are weights left in floating point?",
        )


def table(rows: Sequence[Row]) -> Table:
    """Show the rows; each plan also as a share of the same model's FP32 plan."""
    fp32 = {row["model"]: row.get("plan_bytes") for row in rows if row["precision"] == "fp32"}
    shown = Table(title="TensorRT-RTX builds, no GPU", title_justify="left")
    shown.add_column("model")
    for column in ("precision", "plan MB", "of FP32", "build s", "export CPU s", "warnings"):
        shown.add_column(column, justify="right")
    for row in rows:
        if "error" in row:
            shown.add_row(row["model"], row["precision"], "refused", *"----")
            continue
        whole = fp32.get(row["model"])
        shown.add_row(
            row["model"],
            row["precision"],
            f"{row['plan_bytes'] / 1e6:.1f}",
            f"{row['plan_bytes'] / whole:.2f}" if whole else "-",
            f"{row['build_seconds']:.2f}",
            f"{row['cpu_seconds']:.1f}",
            str(len(row["warnings"])),
        )
    return shown


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
    """Build TensorRT-RTX plans of the zoo; exit 1: one is refused, 3: INT8 is too large."""
    targets.lookup(TARGET).load()  # missing: say so before the first conversion
    log = Console(stderr=True, highlight=False)
    rows = []
    for row in build_all(models, wanted):
        said = row["error"] if "error" in row else f"{row['plan_bytes'] / 1e6:.1f} MB"
        log.print(f"{row['model']} {row['precision']}: {said}", soft_wrap=True)
        rows.append(row)
    Console().print(table(rows))
    if output is not None:
        report = {
            **result_file.header("rtx_builds"),
            "batch": [_BATCH.minimum, _BATCH.usual, _BATCH.maximum],
            "executed": "built, not run on a GPU",
            "results": rows,
        }
        output.parent.mkdir(parents=True, exist_ok=True)
        result_file.write(report, output)
    if any("error" in row for row in rows):
        raise click.exceptions.Exit(1)
    check_size(rows)


if __name__ == "__main__":
    try:
        main()
    except ExporterError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(error.exit_code)
