"""What each precision loses on a network: FP16, INT8 and FP8 by scheme, calibrator, recovery.

All are compared with the Keras original on the same test images, in pairs. Target ``onnx`` is a
simulation of TensorRT, Q, DQ and roundings executed as written, not run on a GPU.

``python -m benchmarks.studies.precision_accuracy resnet18``, or, for FP8 beside INT8,
``python -m benchmarks.studies.precision_accuracy resnet18 --variants fp8``. MODEL may be a
``.keras`` file that carries its preprocessing, such as `benchmarks.studies.untuned` writes.
"""

from __future__ import annotations

import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from benchmarks import command, result_file
from benchmarks.accuracy import measure as accuracy
from exporter import pipeline
from exporter.artifact.folder import Artifact
from exporter.cli import console
from exporter.config import (
    QUANTIZED,
    Calibrator,
    ExportConfig,
    FloatType,
    Precision,
    RecoveryName,
    WeightBits,
)
from exporter.errors import Missing, WrongUse
from exporter.machine.cpus import lacks_vnni

RESULTS = Path(__file__).parents[1] / "results"
DATA = "fashion-mnist"

Row = dict[str, Any]


@dataclass(frozen=True)
class Variant:
    """What to ask `export` for; None leaves it to the target."""

    target: str
    precision: Precision = "int8"
    weight_bits: WeightBits | None = None
    calibrator: Calibrator = "mse"
    recovery: tuple[RecoveryName, ...] | None = None
    rest: FloatType | None = None

    @property
    def name(self) -> str:
        """Of its folder."""
        if self.precision not in QUANTIZED:
            return f"{self.target}-{self.precision}"
        recovery = ("none",) if self.recovery == () else self.recovery or ()
        bits = (str(self.weight_bits),) if self.weight_bits else ()
        rest = (self.rest,) if self.rest else ()
        precision = () if self.precision == "int8" else (self.precision,)
        return "-".join((self.target, *precision, *bits, self.calibrator, *recovery, *rest))

    @property
    def runs_here(self) -> bool:
        """Whether this CPU sums its integers right."""
        return self.weight_bits != 8 or not lacks_vnni()


ALL: tuple[RecoveryName, ...] = ("rounding", "bias")
VARIANTS = (
    Variant("onnx", "fp16"),
    Variant("onnx"),
    Variant("onnx", rest="fp16"),
    Variant("onnx", calibrator="entropy"),
    Variant("onnx", recovery=ALL),
    Variant("openvino", weight_bits=8),
    Variant("ort", weight_bits=8),
    Variant("ort", weight_bits=8, recovery=ALL),
    Variant("openvino", weight_bits=7),
    Variant("ort", weight_bits=7),
    Variant("ort", weight_bits=7, recovery=()),
    Variant("ort", weight_bits=7, calibrator="entropy"),
    Variant("ort", weight_bits=7, calibrator="percentile"),
    Variant("ort", weight_bits=7, calibrator="minmax"),
    Variant("ort", weight_bits=7, recovery=ALL),
)
# FP8, and what it is to be compared with: all are simulated, with FP16 around them.
FP8_VARIANTS = (
    Variant("onnx", rest="fp16"),
    Variant("onnx", "fp8"),
    Variant("onnx", "fp8", calibrator="minmax"),
    Variant("onnx", "fp8", recovery=ALL),
)


@dataclass(frozen=True)
class VariantSet:
    """Variants that are measured together, and how their file's name begins."""

    variants: tuple[Variant, ...]
    file: str


SETS = {"int8": VariantSet(VARIANTS, "precision"), "fp8": VariantSet(FP8_VARIANTS, "fp8")}


def chosen(
    names: tuple[str, ...], note: Console, among: tuple[Variant, ...] = VARIANTS
) -> list[Variant]:
    """Return the variants of these names, or all that run here.

    Raises:
        Missing: one that is named does not.
    """
    asked = [variant for variant in among if not names or variant.name in names]
    refused = [variant.name for variant in asked if not variant.runs_here]
    if refused:
        why = f"this CPU has no VNNI, and sums of 8-bit weights would saturate: {refused}"
        if names:
            raise Missing(why, hint="measure these on a CPU with VNNI")
        note.print(f"left out: {why}")
    return [variant for variant in asked if variant.runs_here]


def export(model: str, variant: Variant, folder: Path, calibration_images: int) -> Artifact:
    """Make one artifact."""
    config = ExportConfig(
        model,
        data=DATA,
        output=folder / variant.name,
        **{**asdict(variant), "calibration_images": calibration_images},
    )
    with console.progress_bars(quiet=False) as progress:
        return pipeline.export(config, progress)


def row(variant: Variant, artifact: Artifact, found: accuracy.Accuracy) -> Row:
    """Gather one variant's figures; the images that flip are left to ``exporter evaluate``."""
    figures = {name: value for name, value in found.as_json().items() if name != "flips"}
    quantized = artifact.quantization or {}
    kept = ("scheme", "reduce_range", "calibrator", "recovery")
    passes = artifact.passport["passes"].get("insert_qdq", {"applied": 0, "kept": []})
    return {
        **figures,
        "engine": variant.name,
        "target": variant.target,
        "precision": variant.precision,
        "simulated": artifact.is_simulation,
        "rest": "fp16" if "fp16" in artifact.passport else "fp32",
        "layers_quantized": passes["applied"],
        "layers_in_float": len(passes["kept"]),
        **{name: quantized[name] for name in kept if name in quantized},
    }


def described(one: Row) -> tuple[str, str, str]:
    """Say in words what a row is: precision, calibrator, recovery."""
    if one["precision"] not in QUANTIZED:
        return f"{one['precision'].upper()} (`{one['target']}`, simulated)", "-", "-"
    bits = 7 if one["reduce_range"] else 8
    how = "simulated" if one["simulated"] else f"{bits}-bit weights"
    rest = ", FP16 around it" * (one["rest"] == "fp16")
    name = "FP8" if one["precision"] == "fp8" else f"INT8 {one['scheme']}"
    precision = f"{name}{rest} (`{one['target']}`, {how})"
    return precision, one["calibrator"], ", ".join(one["recovery"]) or "none"


def lost(one: Row) -> tuple[str, str, str, str]:
    """Say in figures what a row lost: right, change with interval, p, flips."""
    paired = one["paired"]
    low, high = paired["interval_points"]
    return (
        f"{one['correct']:,}",
        f"{paired['change_points']:+.2f} ({low:+.2f} to {high:+.2f})",
        f"{paired['p_value']:.2g}",
        str(one["against_keras"]["label_flips"]),
    )


COLUMNS = ("precision", "calibrator", "recovery", "right", "change, points", "p", "label flips")


def table(rows: list[Row], keras: Row) -> Table:
    """Show the variants beside the original."""
    shown = Table(
        title=f"{keras['images']} test images; Keras has {keras['correct']} right",
        title_justify="left",
    )
    for number, column in enumerate(COLUMNS):
        shown.add_column(column, justify="left" if number < 3 else "right")
    for one in rows:
        shown.add_row(*described(one), *lost(one))
    return shown


@click.command()
@click.argument("model")
@click.option("--images", type=click.IntRange(min=1), help="Test images; default: all 10,000.")
@click.option("--calibration-images", type=int, default=512, show_default=True)
@click.option(
    "--variant",
    "names",
    type=click.Choice([each.name for group in SETS.values() for each in group.variants]),
    multiple=True,
    help="Only these; default: all of the set that run here.",
)
@click.option(
    "--variants",
    "group",
    type=click.Choice(list(SETS)),
    default="int8",
    show_default=True,
    help="Which set: INT8 on every target, or FP8 beside INT8 as simulated for TensorRT.",
)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    help="JSON file; default: benchmarks/results/precision_MODEL.json, or fp8_MODEL.json.",
)
def main(
    model: str,
    images: int | None,
    calibration_images: int,
    names: tuple[str, ...],
    group: str,
    output: Path | None,
) -> None:
    """Measure what each precision loses on MODEL: a zoo model with shipped weights, or a file."""
    every = SETS[group].variants
    variants = chosen(names, Console(stderr=True, highlight=False), every)
    if output is None and (images or len(variants) < len(every)):
        raise WrongUse("the result of record has all variants on all images", hint="give -o FILE")
    name = Path(model).stem
    output = output or RESULTS / f"{SETS[group].file}_{name}.json"
    report: Row = {
        **result_file.header("studies.precision_accuracy"),
        "model": name,
        "calibration_images": calibration_images,
    }
    with tempfile.TemporaryDirectory(prefix="precision-accuracy-") as folder:
        made = [export(model, variant, Path(folder), calibration_images) for variant in variants]
        with console.progress_bars(quiet=False) as progress:
            keras, *found = accuracy.evaluate(made, DATA, limit=images, progress=progress)
        rows = [row(*each) for each in zip(variants, made, found, strict=True)]
    report |= {"keras": keras.as_json(), "results": rows}
    output.parent.mkdir(parents=True, exist_ok=True)
    result_file.write(report, output)
    Console().print(table(rows, report["keras"]))
    Console().print(f"all figures: {output}", highlight=False, soft_wrap=True)


if __name__ == "__main__":
    command.run(main)
