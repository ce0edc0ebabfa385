"""Turn stored pixels into the inputs that a network was trained on, as rows of a table.

Preprocessing is part of a model. Checkpoints and artifacts store it, and we never guess it, as
the wrong one silently costs accuracy.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from exporter.errors import WrongUse, unknown_name

FloatArray = npt.NDArray[np.float32]
PixelArray = npt.NDArray[np.uint8]

# keras.applications.imagenet_utils: BGR means of "caffe", RGB mean and deviation of "torch".
_CAFFE_MEAN = np.array([103.939, 116.779, 123.68], np.float32)
_TORCH_MEAN = np.array([0.485, 0.456, 0.406], np.float32)
_TORCH_STD = np.array([0.229, 0.224, 0.225], np.float32)


def _caffe(x: FloatArray) -> FloatArray:
    return np.asarray(x[..., ::-1] - _CAFFE_MEAN, np.float32)


def _torch(x: FloatArray) -> FloatArray:
    return np.asarray((x / np.float32(255) - _TORCH_MEAN) / _TORCH_STD, np.float32)


PREPROCESSING: dict[str, Callable[[FloatArray], FloatArray]] = {
    "unit": lambda x: x / np.float32(255),
    "raw": lambda x: x,
    "signed": lambda x: x / np.float32(127.5) - np.float32(1),
    "caffe": _caffe,
    "torch": _torch,
}
GIVEN = "given"
"""The user prepared the inputs in Python, so nobody else can."""
RGB_ONLY = ("caffe", "torch")


def preprocess(name: str, pixels: PixelArray) -> FloatArray:
    """Turn pixels into network inputs.

    Args:
        name: a key of :data:`PREPROCESSING`: ``unit`` 0 to 1, ``raw`` 0 to 255, ``signed``
            -1 to 1, ``caffe`` and ``torch`` as in ``keras.applications.imagenet_utils``.
        pixels: (batch, height, width, channels), in RGB if there are three channels.

    Returns:
        The inputs, of the same shape, in float32.

    Raises:
        WrongUse: unknown name, or ``caffe``/``torch`` on anything but RGB.
    """
    if name not in PREPROCESSING:
        raise unknown_name("preprocessing", name, PREPROCESSING)
    if name in RGB_ONLY and pixels.shape[-1] != 3:
        raise WrongUse(
            f"preprocessing {name!r} needs RGB images, but these have {pixels.shape[-1]} channel(s)"
        )
    return PREPROCESSING[name](pixels.astype(np.float32))


def describe(name: str, image_size: tuple[int, ...]) -> dict[str, Any]:
    """Return the passport's entry on preprocessing."""
    if name == GIVEN:
        return {"name": name, "resize": None}
    return {
        "name": name,
        "resize": {"height": image_size[0], "width": image_size[1], "method": "pillow-bilinear"},
    }
