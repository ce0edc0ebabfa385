"""A graph small enough to build in a moment, and an artefact around it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser

from exporter.artifact import folder as artifact
from exporter.config import Batch, BuildOptions
from exporter.progress import Progress, silent
from exporter.targets import Build


def graph(*, op: str = "Relu", zero_point: int = 0, shape: str = "N,3,16,16") -> bytes:
    """Return Q, DQ, Conv and one more op; every node is named, and knows its Keras layer."""
    model = onnx.parser.parse_model(f"""
        <ir_version: 9, opset_import: ["" : 19]>
        tiny (float[{shape}] x) => (float[N,4,h,w] y)
        <float s = {{0.5}}, int8 z = {{{zero_point}}}> {{
            q = QuantizeLinear(x, s, z)
            d = DequantizeLinear(q, s, z)
            c = Conv <pads = [1, 1, 1, 1]> (d, w)
            y = {op}(c)
        }}""")
    for node, name in zip(
        model.graph.node, ("quantize", "dequantize", "conv", "relu"), strict=True
    ):
        node.name = f"node_{name}"
        node.metadata_props.add(key="keras_layer", value=f"layer_{name}")
    kernel = np.random.default_rng(0).normal(0, 1, (4, 3, 3, 3)).astype(np.float32)
    model.graph.initializer.append(onnx.numpy_helper.from_array(kernel, "w"))
    data: bytes = model.SerializeToString()
    return data


def build(
    batch: Batch = Batch(1, 2, 4),  # noqa: B008
    options: BuildOptions = BuildOptions(),  # noqa: B008
    progress: Progress = silent,
    *,
    here: bool = False,
) -> Build:
    return Build(batch, "fp32", options, progress, here)


def folder(path: Path, **about_the_graph: Any) -> Path:
    """Make a folder with a graph in it."""
    path.mkdir(exist_ok=True)
    (path / artifact.MODEL).write_bytes(graph(**about_the_graph))
    return path


def handed_over(
    path: Path,
    target: str = "trt",
    precision: str = "fp32",
    batch: int | None = None,
    **section: Any,
) -> Path:
    """Write an artefact as ``export --to trt`` leaves it where there is no GPU."""
    fields: dict[str, Any] = {
        "source": {"model": "tiny", "sha256": "0" * 64},
        "target": target,
        "precision": precision,
        "layout": "nchw",
        "batch": {"min": batch or 1, "opt": batch or 2, "max": batch or 4},
        "graph": {"inputs": [{"name": "x", "shape": ["N", 3, 16, 16], "dtype": "FLOAT"}]},
        "preprocessing": None,
        "passes": {},
        "check": {},
        "measured": {"accuracy": {"top1": 1.0}},
        target: {"compiled": False, "options": {}, **section},
    }
    with artifact.writing(path, force=False) as aside:
        (aside / artifact.MODEL).write_bytes(graph())
        (aside / "calibration.json").write_text("{}")
        artifact.seal(aside, fields)
    return path


def told(folder: Path) -> dict[str, Any]:
    """What reached the stand-in's builder."""
    values: dict[str, Any] = json.loads((folder / "engine.plan").read_bytes())
    return values
