"""The plain graph; run here by onnxruntime, so that it can be evaluated like any other."""

from __future__ import annotations

from exporter.targets.ort import compile, open

__all__ = ["compile", "open"]
