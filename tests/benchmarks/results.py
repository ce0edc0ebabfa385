"""A folder of results from numbers made up, written by what writes them in the product."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from benchmarks import result_file
from benchmarks.accuracy import measure as accuracy
from benchmarks.drift import ladder as drift
from benchmarks.drift import pictures as drift_pictures
from benchmarks.drift.layers import Layer, Noise, Walk
from benchmarks.latency import bench as latency
from benchmarks.latency import payoff
from benchmarks.latency import result as latency_result
from benchmarks.latency.result import Report, Row
from calibration.sensitivity import LayerCost
from exporter.artifact.folder import Artifact
from exporter.cli.commands import evaluate
from exporter.precision.sensitivity import Sensitivity
from tests.benchmarks.latency_jobs import QUIET, tiny

DATE = "2026-03-04T05:06:07+00:00"
MACHINE = {"cpu": "A CPU made up", "usable_cores": 2, "system": "Linux"}
DATA = "npz:made-up.npz"
IMAGES, CLASSES = 400, 6
NAMES = ("boot", "bag", "coat", "dress", "shirt", "sandal")
# The medians, in milliseconds, of each engine by batch.
MEDIANS = {
    "keras": {1: 6.0, 8: 18.0, 32: 60.0},
    "keras-xla": {1: 5.5, 8: 17.0, 32: 58.0},
    "net-fp32": {1: 2.2, 8: 13.0, 32: 48.0},
    "net-int8": {1: 0.52, 8: 3.6, 32: 14.1},
}


def everything(place: Path) -> Path:
    """Two artefacts with accuracy and latency recorded, and all that lies beside them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(result_file, "place", lambda: MACHINE)
        return _everything(place)


def _everything(place: Path) -> Path:
    place.mkdir(exist_ok=True)
    one, other = tiny(place / "net-fp32"), tiny(place / "net-int8", precision="int8")
    labels, logits = predictions()
    measured = [record_accuracy(a, labels, logits) for a in (one, other)]
    report = bench(measured)
    latency.record(measured, report)
    latency.write(report, place / "bench.json")
    write_drift(other, place / "drift")
    (place / "sensitivity.json").write_text(
        json.dumps({"model": "net", **result_file.made_here(), **costs().as_json()})
    )
    return place


def predictions() -> tuple[np.ndarray, list[np.ndarray]]:
    """Return labels, and the logits of Keras, of an exact copy, and of a noisy one."""
    rng = np.random.default_rng(3)
    labels = rng.integers(0, CLASSES, IMAGES)
    keras = rng.normal(0, 1, (IMAGES, CLASSES)).astype(np.float32)
    keras[np.arange(IMAGES), labels] += 2.5
    noisy = keras + rng.normal(0, 0.06, keras.shape).astype(np.float32)
    return labels, [keras, keras.copy(), noisy]


def record_accuracy(one: Artifact, labels: np.ndarray, logits: list[np.ndarray]) -> Artifact:
    """Record as ``exporter evaluate`` does."""
    which = 2 if one.passport["precision"] == "int8" else 1
    rows = [
        accuracy.score("keras", logits[0], labels),
        accuracy.score(str(one.path), logits[which], labels, logits[0]),
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(accuracy, "evaluate", lambda *_, **__: rows)
        return evaluate.measure([one], DATA, None)[0]


def bench(artifacts: list[Artifact], seed: int = 0) -> Report:
    """Five rounds of calls drawn about :data:`MEDIANS`, condensed as ``exporter bench`` does."""
    rng = np.random.default_rng(seed)
    engines = {name: name for name in latency.ORIGINALS}
    engines |= {str(one.path): one.path.name for one in artifacts}
    rows: list[Row] = []
    for batch in (1, 8, 32):
        drawn = [_row(engine, batch, MEDIANS[name][batch], rng) for engine, name in engines.items()]
        rows += [drawn[0]]
        rows += [
            replace(
                row,
                speedup=latency_result.speedup(row, drawn[0], "sweep"),
                file_bytes=None if row.engine in latency.ORIGINALS else 1_000_000,
            )
            for row in drawn[1:]
        ]
    settings = {"rounds": 5, "block_s": 2.0, "threads": 2, "batches": [1, 8, 32], "seconds": 2.0}
    settings |= {"against": list(latency.ORIGINALS)}
    verdicts = payoff.verdicts(artifacts, rows, "sweep")
    versions = {"onnxruntime": "1.2.3"}
    return Report(
        "sweep", "keras", tuple(rows), (), verdicts, settings, MACHINE, versions, later(artifacts)
    )


def later(artifacts: list[Artifact]) -> str:
    """Return a date at which all of them were there."""
    return max([DATE, *(str(one.passport.get("created", "")) for one in artifacts)])


def _row(engine: str, batch: int, median: float, rng: np.random.Generator) -> Row:
    calls = [median * np.exp(rng.gamma(1.5, 0.02, 200) - 0.02) for _ in range(5)]
    samples = [
        {
            "calls_ms": each.tolist(),
            "elapsed_s": float(each.sum() / 1000),
            "warm": True,
            "warm_up_s": 0.3,
            "load": vars(QUIET),
            "peak_rss_mib": 200.0,
            "energy_mj": {},
            "device": {},
        }
        for each in calls
    ]
    blocks = tuple(latency_result.block(i, batch, s) for i, s in enumerate(samples))
    quantiles = latency_result.quantiles([ms for s in samples for ms in s["calls_ms"]])
    return Row(engine, batch, blocks, quantiles)


def ladder(one: Artifact) -> drift.Ladder:
    """Four rungs, of which the engine's is the one that changes labels."""
    labels, (keras, same, noisy) = predictions()
    steps = (drift.KERAS, drift.ONNX, drift.FOLDED, drift.ENGINE)
    logits = (keras, same, same, noisy)
    before: list[np.ndarray | None] = [None, *logits[:-1]]
    rungs = tuple(
        drift._measured(step, now, labels, keras, then)
        for step, now, then in zip(steps, logits, before, strict=True)
    )
    graphs = drift.Graphs(b"", b"", True, "the same as the artefact's")
    made: Any = SimpleNamespace(artifact=one, source=SimpleNamespace(name="net"), graphs=graphs)
    images: Any = SimpleNamespace(
        data=SimpleNamespace(name=DATA, classes=NAMES),
        labels=labels,
        count=IMAGES,
    )
    return drift.Ladder(made, images, rungs, np.stack([each.argmax(-1) for each in logits]))


def write_drift(one: Artifact, folder: Path) -> None:
    """Write as ``exporter evaluate --ladder --layers -o`` does, with one picture, of noise."""
    climbed = ladder(one)
    names = [f"stage{i // 4}/block{i % 4}/conv" for i in range(30)]
    layers = tuple(
        Layer(name, "Conv", None, name, total=Noise(1.0, 0.001 * (i + 1)), own=Noise(1.0, 0.001))
        for i, name in enumerate(names)
    )
    walk = Walk("folded", "engine", 256, layers)
    folder.mkdir()
    text = json.dumps(drift_pictures.report(climbed, walk), allow_nan=False)
    (folder / drift_pictures.REPORT).write_text(text)
    picture = Image.fromarray(np.random.default_rng(5).integers(0, 256, (400, 720), np.uint8))
    picture.save(folder / drift_pictures.FLIPS)


def costs() -> Sensitivity:
    """Thirty layers, the costliest first; the last changes nothing."""
    noises = [*(0.1 / 1.3**i for i in range(29)), 0.0]
    layers = tuple(LayerCost(f"conv_{i}", n, 29 - i, 1000 * i + 1) for i, n in enumerate(noises))
    return Sensitivity("cpu", False, 256, layers, {"conv_0": "stem_conv"})
