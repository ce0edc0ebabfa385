"""What each precision loses on a network: FP16, INT8 and FP8 by scheme, calibrator, recovery.

All are compared in pairs with the Keras original on the same test images. Target ``onnx`` is a
simulation of TensorRT: Q, DQ and roundings are executed as written, and not run on a GPU.

``python -m benchmarks.studies.precision_accuracy resnet18``, or, for FP8 beside INT8,
``python -m benchmarks.studies.precision_accuracy resnet18 --variants fp8``. MODEL may be a
``.keras`` file that carries its preprocessing, such as `benchmarks.studies.untuned` writes.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click

from benchmarks import command
from benchmarks.accuracy import measure as accuracy
from benchmarks.studies import study
from benchmarks.studies.study import Run
from exporter import pipeline, targets
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

DATA = "fashion-mnist"

Row = dict[str, Any]


@dataclass(frozen=True)
class Variant:
    """What `export` is asked for; None leaves it to the target."""

    target: str
    precision: Precision = "int8"
    weight_bits: WeightBits | None = None
    calibrator: Calibrator = "mse"
    recovery: tuple[RecoveryName, ...] | None = None
    rest: FloatType | None = None

    @property
    def name(self) -> str:
        """The name of its folder."""
        if self.precision not in QUANTIZED:
            return f"{self.target}-{self.precision}"
        recovery = ("none",) if self.recovery == () else self.recovery or ()
        bits = (str(self.weight_bits),) if self.weight_bits else ()
        rest = (self.rest,) if self.rest else ()
        precision = () if self.precision == "int8" else (self.precision,)
        return "-".join((self.target, *precision, *bits, self.calibrator, *recovery, *rest))

    @property
    def runs_here(self) -> bool:
        """Whether this CPU can sum its integers without saturating."""
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
# FP8, and INT8 to compare it with. All are simulated, with FP16 around them.
FP8_VARIANTS = (
    Variant("onnx", rest="fp16"),
    Variant("onnx", "fp8"),
    Variant("onnx", "fp8", calibrator="minmax"),
    Variant("onnx", "fp8", recovery=ALL),
)


# Variants that are measured together, by the option that asks for them.
SETS = {"int8": VARIANTS, "fp8": FP8_VARIANTS}
_FILES = {"int8": "precision", "fp8": "fp8"}


def chosen(
    names: Sequence[str], say: Callable[[str], None], among: Sequence[Variant] = VARIANTS
) -> list[Variant]:
    """Return the variants with these names, or all that run here.

    Raises:
        Missing: a named one does not run here.
    """
    asked = [variant for variant in among if not names or variant.name in names]
    refused = [variant.name for variant in asked if not variant.runs_here]
    if refused:
        why = f"this CPU has no VNNI, and sums of 8-bit weights would saturate: {refused}"
        if names:
            raise Missing(why, hint="measure these on a CPU with VNNI")
        say(f"left out: {why}")
    return [variant for variant in asked if variant.runs_here]


def row(variant: Variant, artifact: Artifact, found: accuracy.Accuracy) -> Row:
    """Collect one variant's figures. Only ``exporter evaluate`` lists the images that flip."""
    figures = {name: value for name, value in found.as_json().items() if name != "flips"}
    quantized = artifact.quantization or {}
    kept = ("scheme", "reduce_range", "calibrator", "recovery")
    passes = artifact.passport["passes"].get("insert_qdq", {"applied": 0, "kept": []})
    return {
        **figures,
        "engine": variant.name,
        "target": variant.target,
        "precision": variant.precision,
        "simulated": targets.simulates(artifact),
        "rest": "fp16" if "fp16" in artifact.passport else "fp32",
        "layers_quantized": passes["applied"],
        "layers_in_float": len(passes["kept"]),
        **{name: quantized[name] for name in kept if name in quantized},
    }


def described(one: Row) -> tuple[str, str, str]:
    """Describe a row in words: precision, calibrator, recovery."""
    if one["precision"] not in QUANTIZED:
        return f"{one['precision'].upper()} (`{one['target']}`, simulated)", "-", "-"
    bits = 7 if one["reduce_range"] else 8
    how = "simulated" if one["simulated"] else f"{bits}-bit weights"
    rest = ", FP16 around it" * (one["rest"] == "fp16")
    name = "FP8" if one["precision"] == "fp8" else f"INT8 {one['scheme']}"
    precision = f"{name}{rest} (`{one['target']}`, {how})"
    return precision, one["calibrator"], ", ".join(one["recovery"]) or "none"


def lost(one: Row) -> tuple[str, str, str, str]:
    """Show what a row lost in figures: right, change with interval, p, flips."""
    paired = one["paired"]
    low, high = paired["interval_points"]
    return (
        f"{one['correct']:,}",
        f"{paired['change_points']:+.2f} ({low:+.2f} to {high:+.2f})",
        f"{paired['p_value']:.2g}",
        str(one["against_keras"]["label_flips"]),
    )


COLUMNS = ("precision", "calibrator", "recovery", "right", "change, points", "p", "label flips")


@study.command("precision_accuracy")
@click.argument("model")
@click.option("--images", type=study.COUNT, help="Test images; default: all 10,000.")
@click.option("--calibration-images", default=512)
@click.option(
    "--variant",
    "names",
    type=click.Choice([each.name for group in SETS.values() for each in group]),
    multiple=True,
    help="Only these; default: all of the set that run here.",
)
@click.option(
    "--variants",
    "group",
    type=click.Choice(list(SETS)),
    default="int8",
    help="INT8 on every target, or FP8 beside INT8 as simulated for TensorRT.",
)
def main(
    log: Run,
    model: str,
    images: int | None,
    calibration_images: int,
    names: tuple[str, ...],
    group: str,
) -> None:
    """Measure what each precision loses on MODEL: a zoo model with shipped weights, or a file.

    Without -o, the result goes to benchmarks/results/precision_MODEL.json or fp8_MODEL.json.
    """
    variants = chosen(names, log.say, SETS[group])
    if log.output is None and (images or len(variants) < len(SETS[group])):
        raise WrongUse("the result of record has all variants on all images", hint="give -o FILE")
    name = Path(model).stem
    log.output = log.output or study.RESULTS / f"{_FILES[group]}_{name}.json"
    log.start(model=name, calibration_images=calibration_images)
    asked: Row = {"data": DATA, "calibration_images": calibration_images}
    with (
        tempfile.TemporaryDirectory(prefix="precision-accuracy-") as folder,
        console.progress_bars(quiet=False) as progress,
    ):
        made = []
        for variant in variants:
            place = Path(folder, variant.name)
            config = ExportConfig(model, output=place, **asked, **asdict(variant))
            made.append(pipeline.export(config, progress))
        keras, *found = accuracy.evaluate(made, DATA, limit=images, progress=progress)
        rows = [row(*each) for each in zip(variants, made, found, strict=True)]
    log.save(keras=keras.as_json(), results=rows)
    title = f"{keras.images} test images; Keras has {keras.correct} right"
    console.table(title, COLUMNS, [(*described(one), *lost(one)) for one in rows])


if __name__ == "__main__":
    command.run(main)
