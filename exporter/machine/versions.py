"""The installed versions of every package that touches a graph."""

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
    "onnxruntime-ep-nv-tensorrt-rtx",
    "tensorrt",
    "tensorrt-rtx",
    "openvino",
    "cuda-python",
    "numpy",
)
# Other names that the same modules come under.
_ALSO = {
    "tensorrt": ("tensorrt-cu13", "tensorrt-cu12"),
    "cuda-python": ("cuda-bindings",),
    "onnxruntime-ep-nv-tensorrt-rtx": (
        "onnxruntime-ep-nv-tensorrt-rtx-cu13",
        "onnxruntime-ep-nv-tensorrt-rtx-cu12",
    ),
}


def installed_versions() -> dict[str, str | None]:
    """Read the versions of :data:`DISTRIBUTIONS` from their metadata, without importing them.

    Returns:
        Each name with its version, or with that of its first installed alternative, or None.
    """
    return {
        name: next(filter(None, map(_version, (name, *_ALSO.get(name, ())))), None)
        for name in DISTRIBUTIONS
    }


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
