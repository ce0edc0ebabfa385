"""A prepared folder of `benchmarks.gpu_acceptance`, its logits worked out by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser

from benchmarks.gpu_acceptance import handover
from benchmarks.gpu_acceptance.handover import ARTIFACTS, SIMULATED, TENSORRT
from exporter.artifact.folder import MODEL
from tests.exporter.engine_files import artefact

COUNT = 40
# Means of 0.2, 0.5 and 0.8 belong to classes 0 to 2: the nearest has the largest 2cm - c^2.
CENTRES = np.array([0.2, 0.5, 0.8], np.float32)
NET = """<ir_version: 8, opset_import: ["" : 17]>
    net (float[N,4,4,1] input) => (float[N,3] logits)
    <float[1,3] w = {0.4, 1.0, 1.6}, float[3] b = {-0.04, -0.25, -0.64}> {
        m = ReduceMean <axes = [1, 2], keepdims = 0> (input) p = MatMul (m, w) logits = Add (p, b)
    }"""


def port(name: str, *shape: int) -> dict[str, Any]:
    return {"name": name, "shape": ["batch", *shape], "dtype": "FLOAT"}


def prepared_by_hand(
    place: Path,
    net: str = NET,
    side: int = 4,
    channels: int = 1,
    output: str = "logits",
    kind: str = TENSORRT,
) -> Path:
    """What --prepare would write for a network whose logits are worked out by hand."""
    place.mkdir()
    rng = np.random.default_rng(0)
    labels = np.arange(COUNT) % 3
    pixels = rng.normal(255 * CENTRES[labels, None, None, None], 8, (COUNT, side, side, channels))
    images = pixels.clip(0, 255).astype(np.uint8)
    np.savez(place / handover.IMAGES, images=images, labels=labels)
    mean = (images / np.float32(255)).mean((1, 2))
    logits = (2 * mean * CENTRES - CENTRES**2).astype(np.float32)
    if output == "doubled":  # what the stand-in for TensorRT computes
        logits = 2 * mean.astype(np.float32)
    names = (handover.KERAS, *SIMULATED)
    np.savez(handover.logits_file(place, "net"), **dict.fromkeys(names, logits))
    model = onnx.parser.parse_model(net).SerializeToString()
    for precision, target in ARTIFACTS[kind].items():
        artefact(
            handover.artefact_folder(place, "net", precision),
            None,
            {MODEL: model},
            source={"model": "net", "kind": "keras", "weights": "own", "sha256": "0" * 64},
            target=target,
            precision=precision,
            layout="nhwc",
            batch={"min": 1, "opt": 8, "max": 32},
            preprocessing={"name": "unit", "resize": {"height": side, "width": side}},
            graph={
                "inputs": [port("input", side, side, channels)],
                "outputs": [port(output, 3)],
                "ops": {"Conv": 53},
            },
            **{target: {"compiled": False, "options": {}}},
        )
    counts = {"data": "by hand", "count": COUNT, "of": COUNT}
    about = {"date": "today", "machine": {}, "versions": {}, "images": counts}
    handover.seal(place, ["net"], about, kind)
    return place
