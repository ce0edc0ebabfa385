"""Artefacts with an engine, made by hand: no GPU and no TensorRT takes part."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from exporter.artifact import folder as artifact
from exporter.engines.record import ENGINE, FIELD

# What `exporter compile` would record on a Jetson AGX Orin with JetPack 6.2.
ORIN: dict[str, Any] = {
    "flavour": "tensorrt",
    "tensorrt": "10.3.0",
    "compute_capabilities": ["8.7"],
    "hardware_compatibility": "none",
    "version_compatible": False,
    "os": "linux",
    "arch": "aarch64",
    "cuda": "12.6",
    "driver": None,
    "gpu": "Orin",
    "dla_core": None,
    "profile": {"input": {"min": [1, 96, 96, 1], "opt": [8, 96, 96, 1], "max": [32, 96, 96, 1]}},
}
FIELDS: dict[str, Any] = {
    "source": {"model": "resnet18", "kind": "zoo", "weights": "shipped"},
    "target": "trt",
    "precision": "int8",
    "layout": "nchw",
    "batch": {},
    "preprocessing": None,
    "graph": {"inputs": [], "outputs": [], "ops": {}, "parameters": 0},
    "passes": {"fold_batch_norm": {"applied": 0, "kept": []}},
    "check": {"images": 0, "data": "noise", "label_flips": 0, "max_relative_error": 0.0},
}


def artefact(
    place: Path,
    record: dict[str, Any] | None = ORIN,
    files: dict[str, bytes] | None = None,
    **fields: Any,
) -> Path:
    """Write one: ``record`` becomes ``passport["engine"]``; by default the engine is no engine."""
    with artifact.writing(place, force=False) as folder:
        for name, content in ({ENGINE: b"not an engine"} if files is None else files).items():
            (folder / name).write_bytes(content)
        engine = {} if record is None else {FIELD: record}
        artifact.seal(folder, {**FIELDS, **engine, **fields})
    return place
