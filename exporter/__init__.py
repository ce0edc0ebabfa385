"""Convert a trained Keras network to an engine, and measure what it lost and gained.

Examples:
    >>> from pathlib import Path
    >>> import exporter
    >>> config = exporter.ExportConfig("resnet18", target="ort", output=Path("resnet18-ort"))
    >>> artifact = exporter.export(config)  # doctest: +SKIP
"""

from __future__ import annotations

from exporter.artifact.folder import Artifact
from exporter.config import Batch, ExportConfig
from exporter.errors import ConversionError, ExporterError, GateRefused, Missing, WrongUse
from exporter.progress import Progress, silent

__version__ = "0.1.0"

__all__ = [
    "Artifact",
    "Batch",
    "ConversionError",
    "ExportConfig",
    "ExporterError",
    "GateRefused",
    "Missing",
    "WrongUse",
    "__version__",
    "export",
]


def export(config: ExportConfig, progress: Progress = silent) -> Artifact:
    """Export a network to an artifact. See :func:`exporter.pipeline.export`."""
    from exporter import pipeline

    return pipeline.export(config, progress)
