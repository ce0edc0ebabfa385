"""The plain graph; run here by onnxruntime as it is written, so that it can be evaluated."""

from __future__ import annotations

from exporter.artifact import MODEL, Artifact
from exporter.targets.ort import OrtRunner, compile

__all__ = ["compile", "open"]


def open(artifact: Artifact, threads: int | None = None) -> OrtRunner:
    """Open ``model.onnx`` without optimisations: INT8 is simulated, Q and DQ run as written."""
    simulate = artifact.passport["precision"] == "int8"
    return OrtRunner(artifact.file(MODEL), threads, as_written=simulate)
