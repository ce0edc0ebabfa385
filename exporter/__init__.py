"""Convert a trained Keras network to an engine, and measure what it lost and gained.

Examples:
    >>> import exporter
    >>> artifact = exporter.export("resnet18", to="ort")  # doctest: +SKIP
    >>> artifact = exporter.export(model, to="ort", precision="int8", data=(x, y))  # doctest: +SKIP
    >>> exporter.evaluate(artifact, (x_test, y_test), original=model)  # doctest: +SKIP
    >>> artifact.open().infer(x_test[:8])  # doctest: +SKIP
"""

from __future__ import annotations

from exporter.api.calls import bench, check, doctor, evaluate, export, inspect, load, sensitivity
from exporter.api.shown import Artifact, Engine, Result
from exporter.config import Batch, ExportConfig, InputSize, Trust
from exporter.errors import ConversionError, ExporterError, GateRefused, Missing, WrongUse
from exporter.progress import Progress, silent

__version__ = "0.1.0"

__all__ = [
    "Artifact",
    "Batch",
    "ConversionError",
    "Engine",
    "ExportConfig",
    "ExporterError",
    "GateRefused",
    "InputSize",
    "Missing",
    "Progress",
    "Result",
    "Trust",
    "WrongUse",
    "__version__",
    "bench",
    "check",
    "doctor",
    "evaluate",
    "export",
    "inspect",
    "load",
    "sensitivity",
    "silent",
]
