"""A tiny artefact that runs in milliseconds, and blocks made by hand."""

from __future__ import annotations

from pathlib import Path

import onnx

from benchmarks.latency.machine_watch import Load
from benchmarks.latency.result import Block, Row
from exporter.artifact import folder as artifact
from tests.exporter.engine_files import artefact

GRAPH = (
    '<ir_version: 8, opset_import: ["" : 17]> '
    "net (float[N,16,16,1] input) => (float[N,1] logits) "
    "{ y = Relu (input) z = ReduceMean <axes = [1, 2], keepdims = 0> (y) logits = Identity (z) }"
)
QUIET = Load(others=0.0, stolen=0.0, throttled_s=0.0, throttle_events=0, mhz=3000.0)


def tiny(place: Path, precision: str = "fp32", target: str = "ort") -> artifact.Artifact:
    model = onnx.parser.parse_model(GRAPH)
    return artifact.read(
        artefact(
            place,
            None,
            {artifact.MODEL: model.SerializeToString()},
            target=target,
            precision=precision,
            layout="nhwc",
            source={"model": "tiny", "kind": "keras", "weights": "own", "sha256": "0" * 64},
            batch={"min": 1, "opt": 1, "max": None},
            preprocessing={"name": "unit", "resize": {"height": 16, "width": 16}},
            graph={
                "inputs": [{"name": "input", "shape": ["N", 16, 16, 1], "dtype": "FLOAT"}],
                "outputs": [{"name": "logits", "shape": ["N", 1], "dtype": "FLOAT"}],
                "ops": {"Relu": 1},
                "parameters": 0,
            },
        )
    )


def row(engine: str, medians: list[float], batch: int = 1, load: Load = QUIET) -> Row:
    """One block a round, whose calls all took the same."""
    blocks = tuple(
        Block(i, 100, ms, ms, 2 * ms, 3 * ms, 1000 * batch / ms, True, 0.3, load, 100.0)
        for i, ms in enumerate(medians)
    )
    return Row(engine, batch, blocks, {"50": medians[0]})
