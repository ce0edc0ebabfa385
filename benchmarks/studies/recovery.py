"""What each way to recover INT8 accuracy gains: none, each alone, and all, on both schemes.

The reference is the FP32 graph in onnxruntime. Few images change their label, so label flips tell
little. The logits' signal-to-quantization-noise ratio, in dB, tells methods apart on far fewer
images. Scheme ``cpu`` runs as its engine does. Scheme ``tensorrt`` is a simulation: Q and DQ are
executed as written, and not run on a GPU.

``python -m benchmarks.studies.recovery resnet18``
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

import click
import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
from rich.console import Console
from rich.table import Table

from benchmarks import result_file
from calibration.sensitivity import noise_ratio, sqnr_db
from exporter import pipeline
from exporter.artifact import serialize
from exporter.config import ExportConfig, RecoveryName
from exporter.data import datasets
from exporter.data.feeds import image_size, network_input
from exporter.network import sources
from exporter.network.sources import Source
from exporter.precision import quantize

SCHEMES = ("cpu", "tensorrt")
BATCH = 50
RESULTS = Path(__file__).parents[1] / "results"

Logits = npt.NDArray[np.float32]
Row = dict[str, Any]


@dataclass(frozen=True)
class Setup:
    """What all rows have in common: the network, its FP32 graph and logits, and the images."""

    source: Source
    graph: bytes
    config: ExportConfig
    data: datasets.Dataset
    images: int
    expected: Logits


def variants() -> list[tuple[RecoveryName, ...]]:
    """None, each method alone, all together."""
    names: tuple[RecoveryName, ...] = get_args(RecoveryName)
    return [(), *((name,) for name in names), names]


def score(reference: Logits, got: Logits, labels: npt.NDArray[np.int64]) -> Row:
    """Compare logits (images, classes) with the reference's, and with the labels."""
    best, expected = got.argmax(-1), reference.argmax(-1)
    return {
        "images": len(labels),
        "correct": int((best == labels).sum()),
        "label_flips": int((best != expected).sum()),
        "mean_squared_error": float(((reference.astype(np.float64) - got) ** 2).mean()),
        "sqnr_db": sqnr_db(noise_ratio(reference, got)),
    }


def logits_of(graph: bytes, setup: Setup, *, as_written: bool = False) -> Logits:
    """Run the first test images through a graph."""
    from exporter.targets.ort import OrtRunner

    size = image_size(setup.source, setup.data)
    name = setup.source.outputs[0].name
    with OrtRunner(graph, as_written=as_written) as runner:
        return np.concatenate(
            [
                runner.infer(network_input(setup.source, pixels))[name]
                for pixels, _ in datasets.batches(setup.data, size, BATCH, setup.images)
            ]
        )


def measure(setup: Setup, schemes: Sequence[str], console: Console) -> list[Row]:
    """Quantize and score every variant under every scheme."""
    rows = []
    with tempfile.TemporaryDirectory(prefix="recovery-") as folder:
        for scheme in schemes:
            for methods in variants():
                kept = Path(folder, f"{scheme}-{'equalize' in methods}.json")
                row = _measure_one(setup, scheme, methods, kept)
                console.print(f"{scheme}: {_name(row)}: {row['sqnr_db']:.2f} dB")
                rows.append(row)
    return rows


def _measure_one(
    setup: Setup, scheme: str, methods: tuple[RecoveryName, ...], calibration: Path
) -> Row:
    """Score one variant; what was calibrated before on the same graph is used again."""
    reused = calibration if calibration.exists() else None
    config = replace(setup.config, recovery=methods, calibration=reused)
    model = ir.from_proto(onnx.load_model_from_string(setup.graph))
    done = quantize.quantize(model, setup.source, config, scheme, lambda *_: None)
    done.params.save(calibration)
    got = logits_of(serialize.checked_bytes(model), setup, as_written=scheme == "tensorrt")
    labels = setup.data.labels[: setup.images]
    common = {"scheme": scheme, "simulated": scheme == "tensorrt"}
    return {**common, "recovery": done.recovery, **score(setup.expected, got, labels)}


def prepare(model: str, weights: str | None, config: ExportConfig, images: int) -> Setup:
    """Load and convert a network, and run its FP32 graph."""
    from exporter.network import frontend

    source = sources.load(model, weights=weights)
    graph = frontend.to_onnx(source)
    pipeline.run_passes(graph, "nhwc")
    data = datasets.load(config.data or "fashion-mnist", "test")
    count = min(images, len(data))
    empty = np.zeros((0, 0), np.float32)
    setup = Setup(source, serialize.checked_bytes(graph), config, data, count, empty)
    return replace(setup, expected=logits_of(setup.graph, setup))


def table(rows: Sequence[Row], reference: Row) -> Table:
    """Show the rows beside the FP32 graph."""
    shown = Table(title=f"Recovery, {reference['images']} test images", title_justify="left")
    for column in ("scheme", "recovery", "right", "flips", "SQNR, dB", "mean squared error"):
        shown.add_column(column, justify="left" if column in ("scheme", "recovery") else "right")
    shown.add_row("FP32", "-", str(reference["correct"]), "-", "-", "-")
    for row in rows:
        scheme = f"{row['scheme']} (simulated)" if row["simulated"] else row["scheme"]
        shown.add_row(
            scheme,
            _name(row),
            str(row["correct"]),
            str(row["label_flips"]),
            f"{row['sqnr_db']:.2f}",
            f"{row['mean_squared_error']:.2e}",
        )
    return shown


def _name(row: Row) -> str:
    return ", ".join(f"{name} ({count})" for name, count in row["recovery"].items()) or "none"


@click.command()
@click.argument("model")
@click.option("--weights", help="For a zoo model without shipped ones: FILE or random.")
@click.option("--data", default="fashion-mnist", show_default=True)
@click.option("--images", type=click.IntRange(min=1), default=10_000, show_default=True)
@click.option("--calibration-images", type=int, default=512, show_default=True)
@click.option("--calibrator", default="mse", show_default=True)
@click.option("--scheme", "schemes", type=click.Choice(SCHEMES), multiple=True, default=SCHEMES)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    help="JSON file; default: benchmarks/results/recovery_MODEL.json.",
)
def main(
    model: str,
    weights: str | None,
    data: str,
    images: int,
    schemes: tuple[str, ...],
    output: Path | None,
    **options: Any,
) -> None:
    """Measure what each recovery method gains on MODEL."""
    output = output or RESULTS / f"recovery_{Path(model).stem}.json"
    report: dict[str, Any] = {
        **result_file.header("studies.recovery"),
        "model": model,
        "weights": weights or "shipped",
        "data": data,
        **options,
    }
    config = ExportConfig(model, "ort", output, precision="int8", data=data, **options)
    setup = prepare(model, weights, config, images)
    labels = setup.data.labels[: setup.images]
    report["fp32"] = score(setup.expected, setup.expected, labels)
    del report["fp32"]["sqnr_db"]  # infinite, which JSON has no word for
    report["results"] = measure(setup, schemes, Console(stderr=True, highlight=False))
    output.parent.mkdir(parents=True, exist_ok=True)
    result_file.write(report, output)
    console = Console()
    console.print(table(report["results"], report["fp32"]))
    console.print(f"all figures: {output}", highlight=False, soft_wrap=True)


if __name__ == "__main__":
    main()
