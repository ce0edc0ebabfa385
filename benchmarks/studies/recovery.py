"""What each way to recover INT8 accuracy gains: none, each alone, and all, on both schemes.

The reference is the FP32 graph in onnxruntime. Few images change their label, so label flips tell
little. The logits' signal-to-quantization-noise ratio, in dB, tells methods apart on far fewer
images. Scheme ``cpu`` runs as its engine does. Scheme ``tensorrt`` is a simulation: Q and DQ are
executed as written, and not run on a GPU.

``python -m benchmarks.studies.recovery resnet18``
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

import click
import numpy as np
import onnx
import onnx_ir as ir

from benchmarks import command
from benchmarks.accuracy.measure import BATCH, Images, Logits
from benchmarks.studies import study
from benchmarks.studies.study import Run
from calibration.sensitivity import noise_ratio, sqnr_db
from exporter import pipeline
from exporter.artifact import serialize
from exporter.cli import console
from exporter.config import ExportConfig, RecoveryName
from exporter.data.datasets import Labels
from exporter.network import sources
from exporter.precision import quantize
from exporter.progress import silent

SCHEMES = ("cpu", "tensorrt")

Row = dict[str, Any]


@dataclass(frozen=True)
class Setup:
    """What all rows share: the test images, the network's FP32 graph, and what to ask for."""

    images: Images
    graph: bytes
    config: ExportConfig

    def logits(self, graph: bytes, *, as_written: bool = False) -> Logits:
        """Run the images through a graph."""
        from exporter.targets.ort import OrtRunner

        with OrtRunner(graph, as_written=as_written) as runner:
            return self.images.logits(runner, self.images.feeds(), BATCH, "", silent)


def prepare(config: ExportConfig, limit: int) -> Setup:
    """Load a network, convert it, and load its first test images."""
    from exporter.network import frontend

    source = sources.load(config.model)
    graph = frontend.to_onnx(source)
    pipeline.run_passes(graph, "nhwc")
    images = Images.load(source, str(config.data), limit, silent)
    return Setup(images, serialize.checked_bytes(graph), config)


def variants() -> list[tuple[RecoveryName, ...]]:
    """Return no method, each method alone, and all together."""
    names: tuple[RecoveryName, ...] = get_args(RecoveryName)
    return [(), *((name,) for name in names), names]


def score(reference: Logits, got: Logits, labels: Labels) -> Row:
    """Compare logits (images, classes) with the reference's, and with the labels."""
    best, expected = got.argmax(-1), reference.argmax(-1)
    return {
        "images": len(labels),
        "correct": int((best == labels).sum()),
        "label_flips": int((best != expected).sum()),
        "mean_squared_error": float(((reference.astype(np.float64) - got) ** 2).mean()),
        "sqnr_db": sqnr_db(noise_ratio(reference, got)),
    }


def measure(setup: Setup, expected: Logits, say: Callable[[str], None]) -> list[Row]:
    """Quantize and score every variant under every scheme."""
    rows = []
    with tempfile.TemporaryDirectory(prefix="recovery-") as folder:
        for scheme in SCHEMES:
            for methods in variants():
                kept = Path(folder, f"{scheme}-{'equalize' in methods}.json")
                row = _measure_one(setup, expected, scheme, methods, kept)
                say(f"{scheme}: {_name(row)}: {row['sqnr_db']:.2f} dB")
                rows.append(row)
    return rows


def _measure_one(
    setup: Setup,
    expected: Logits,
    scheme: str,
    methods: tuple[RecoveryName, ...],
    calibration: Path,
) -> Row:
    """Score one variant. An earlier calibration of the same graph is used again."""
    reused = calibration if calibration.exists() else None
    config = replace(
        setup.config,
        int8=replace(setup.config.int8, recovery=methods),
        calibration=replace(setup.config.calibration, file=reused),
    )
    model = ir.from_proto(onnx.load_model_from_string(setup.graph))
    done = quantize.quantize(model, setup.images.source, config, scheme, silent)
    done.params.save(calibration)
    simulated = scheme == "tensorrt"
    got = setup.logits(serialize.checked_bytes(model), as_written=simulated)
    common = {"scheme": scheme, "simulated": simulated, "recovery": done.recovery}
    return {**common, **score(expected, got, setup.images.labels)}


def table(rows: Sequence[Row], reference: Row) -> list[list[str]]:
    """Return the table's rows, the FP32 graph first."""
    shown = [["FP32", "-", str(reference["correct"]), "-", "-", "-"]]
    for row in rows:
        scheme = f"{row['scheme']} (simulated)" if row["simulated"] else row["scheme"]
        counts = [str(row["correct"]), str(row["label_flips"])]
        noise = [f"{row['sqnr_db']:.2f}", f"{row['mean_squared_error']:.2e}"]
        shown.append([scheme, _name(row), *counts, *noise])
    return shown


def _name(row: Row) -> str:
    return ", ".join(f"{name} ({count})" for name, count in row["recovery"].items()) or "none"


@study.command("recovery")
@click.argument("model")
@study.data
@click.option("--images", type=study.COUNT, default=10_000)
@click.option("--calibration-images", default=512)
@click.option("--calibrator", default="mse")
def main(log: Run, model: str, data: str, images: int, **options: Any) -> None:
    """Measure what each recovery method gains on MODEL.

    Without -o, the result goes to benchmarks/results/recovery_MODEL.json.
    """
    log.output = log.output or study.RESULTS / f"recovery_{Path(model).stem}.json"
    log.start(model=model, data=data, **options)
    config = ExportConfig(model, "ort", log.output, precision="int8", data=data, **options)
    setup = prepare(config, images)
    expected = setup.logits(setup.graph)
    fp32 = score(expected, expected, setup.images.labels)
    del fp32["sqnr_db"]  # infinite, which JSON can't hold
    log.save(fp32=fp32, results=measure(setup, expected, log.say))
    columns = ("scheme", "recovery", "right", "flips", "SQNR, dB", "mean squared error")
    title = f"Recovery, {fp32['images']} test images"
    console.table(title, columns, table(log.report["results"], fp32))


if __name__ == "__main__":
    command.run(main)
