"""Read the installed versions of all packages that touch a graph."""

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
# Other package names that provide the same modules.
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
        The version by name. If another name in ``_ALSO`` provides the module, its version; if
        none does, None.
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
