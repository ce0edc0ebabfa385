"""Which versions of all that touches a graph are installed here."""

from __future__ import annotations

import importlib.metadata

DISTRIBUTIONS = (
    "exporter",
    "keras",
    "tensorflow",
    "tensorflow-cpu",
    "tf2onnx",
    "onnx",
    "onnx-ir",
    "onnxruntime",
    "onnxruntime-gpu",
    "tensorrt",
    "tensorrt-rtx",
    "openvino",
    "cuda-python",
    "numpy",
)


def installed_versions() -> dict[str, str | None]:
    """Read the versions of :data:`DISTRIBUTIONS` from their metadata, importing none.

    Returns:
        Each name with its version, None where it is not installed.
    """
    versions: dict[str, str | None] = {}
    for name in DISTRIBUTIONS:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = None
    return versions
