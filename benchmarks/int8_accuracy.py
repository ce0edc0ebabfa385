"""What INT8 loses on a network: every scheme, several calibrators, with and without recovery.

All are compared with the Keras original on the same test images, in pairs. Scheme ``tensorrt`` is a
simulation, Q and DQ executed as written, not run on a GPU.

``python -m benchmarks.int8_accuracy resnet18``
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from benchmarks import accuracy, result_file
from exporter import console, pipeline
from exporter.artifact import Artifact
from exporter.config import Calibrator, ExportConfig, RecoveryName

RESULTS = Path(__file__).parent / "results"

Row = dict[str, Any]


@dataclass(frozen=True)
class Variant:
    """One way to INT8; the target's own scheme, and its own recovery where that is None."""

    target: str
    calibrator: Calibrator
    recovery: tuple[RecoveryName, ...] | None = None

    @property
    def name(self) -> str:
        """Of its folder."""
        recovery = ("none",) if self.recovery == () else self.recovery or ()
        return "-".join((self.target, self.calibrator, *recovery))


VARIANTS = (
    Variant("ort", "mse"),
    Variant("ort", "mse", ()),
    Variant("ort", "entropy"),
    Variant("ort", "percentile"),
    Variant("ort", "minmax"),
    Variant("ort", "mse", ("rounding", "bias")),
    Variant("onnx", "mse"),
    Variant("onnx", "entropy"),
    Variant("onnx", "mse", ("rounding", "bias")),
    Variant("openvino", "mse"),
)


def export(model: str, variant: Variant, folder: Path, calibration_images: int) -> Artifact:
    """Make one artefact."""
    config = ExportConfig(
        model,
        variant.target,
        folder / variant.name,
        precision="int8",
        calibrator=variant.calibrator,
        calibration_images=calibration_images,
        recovery=variant.recovery,
    )
    with console.progress_bars(quiet=False) as progress:
        return pipeline.export(config, progress)


def row(variant: Variant, artifact: Artifact, found: accuracy.Accuracy) -> Row:
    """Gather one variant's figures; the images that flip are left to ``exporter evaluate``."""
    int8 = artifact.passport["int8"]
    figures = {name: value for name, value in found.as_json().items() if name != "flips"}
    return {
        **figures,
        "engine": variant.name,
        "target": variant.target,
        "simulated": artifact.is_simulation,
        **{name: int8[name] for name in ("scheme", "reduce_range", "calibrator", "recovery")},
    }


def table(rows: list[Row], keras: Row) -> Table:
    """Show the variants beside the original."""
    shown = Table(
        title=f"INT8 on {keras['images']} test images; Keras has {keras['correct']} right",
        title_justify="left",
    )
    for column in ("target", "calibrator", "recovery"):
        shown.add_column(column)
    for column in ("right", "change, points", "95% interval", "p", "flips"):
        shown.add_column(column, justify="right")
    for one in rows:
        paired = one["paired"]
        low, high = paired["interval_points"]
        shown.add_row(
            f"{one['target']} (simulated)" if one["simulated"] else one["target"],
            one["calibrator"],
            ", ".join(one["recovery"]) or "none",
            str(one["correct"]),
            f"{paired['change_points']:+.2f}",
            f"{low:+.2f} to {high:+.2f}",
            f"{paired['p_value']:.2g}",
            f"{one['against_keras']['label_flips']}",
        )
    return shown


@click.command()
@click.argument("model")
@click.option("--images", type=click.IntRange(min=1), help="Test images; default: all 10,000.")
@click.option("--calibration-images", type=int, default=512, show_default=True)
@click.option(
    "--variant",
    "names",
    type=click.Choice([variant.name for variant in VARIANTS]),
    multiple=True,
    help="Only these; default: all.",
)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    help="JSON file; default: benchmarks/results/int8_MODEL.json.",
)
def main(
    model: str,
    images: int | None,
    calibration_images: int,
    names: tuple[str, ...],
    output: Path | None,
) -> None:
    """Measure what INT8 loses on MODEL, a zoo model with shipped weights."""
    output = output or RESULTS / f"int8_{model}.json"
    chosen = [variant for variant in VARIANTS if not names or variant.name in names]
    report: Row = {
        **result_file.header("int8_accuracy"),
        "model": model,
        "calibration_images": calibration_images,
    }
    with tempfile.TemporaryDirectory(prefix="int8-accuracy-") as folder:
        made = [export(model, variant, Path(folder), calibration_images) for variant in chosen]
        with console.progress_bars(quiet=False) as progress:
            keras, *found = accuracy.evaluate(
                made, "fashion-mnist", limit=images, progress=progress
            )
        rows = [row(*each) for each in zip(chosen, made, found, strict=True)]
    report |= {"keras": keras.as_json(), "results": rows}
    output.parent.mkdir(parents=True, exist_ok=True)
    result_file.write(report, output)
    Console().print(table(rows, report["keras"]))
    Console().print(f"all figures: {output}", highlight=False, soft_wrap=True)


if __name__ == "__main__":
    main()
