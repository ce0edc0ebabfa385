"""Turn a range into the scale that Q divides by and DQ multiplies by.

``q = clip(round(x / scale) + zero_point)``, ``x' = (q - zero_point) * scale``. Every scale is a
normal, positive, finite float32 for any range, because runtimes flush denormals to zero and would
then divide by zero. Inside the range, the round trip is off by at most half a scale.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from calibration.errors import NotFinite, WrongRequest

SMALLEST_SCALE = float(np.finfo(np.float32).smallest_normal)
INT8_LEVELS = 127  # steps on each side of zero; without -128, as TensorRT requires
UINT8_LEVELS = 255


def symmetric_scale(
    amax: npt.ArrayLike, *, levels: float = INT8_LEVELS
) -> np.float32 | npt.NDArray[np.float32]:
    """Return the scale of a signed symmetric quantization with zero point 0.

    Args:
        amax: greatest magnitude to represent: a number, or an array with one per channel.
        levels: greatest quantized value, 127 for INT8 (64 with reduced range: 7 bits), 448 for
            FP8.

    Returns:
        float32 in the shape of ``amax``. If ``amax`` is 0, everything quantizes to 0 with any
        scale. The scale is then ``1 / levels``, so that products of scales (for a bias) stay
        sensible.

    Raises:
        NotFinite: ``amax`` is NaN or infinite.
        WrongRequest: ``amax`` is negative.
    """
    wide = np.asarray(amax, np.float64)
    _need_finite(wide)
    if (wide < 0).any():
        raise WrongRequest(f"amax must not be negative, but is {float(wide.min())}")
    return _normal(np.where(wide == 0, 1.0, wide) / levels)


def affine_scale_zero_point(
    low: float, high: float, *, levels: int = UINT8_LEVELS
) -> tuple[np.float32, np.uint8]:
    """Return scale and zero point of an unsigned quantization of [low, high] and zero.

    Args:
        low: least value to represent.
        high: greatest value to represent.
        levels: greatest quantized value, 255 for UINT8 (127 with reduced range).

    Returns:
        (float32 scale, uint8 zero point). Zero is represented exactly.

    Raises:
        NotFinite: an end is NaN or infinite.
        WrongRequest: ``low`` is more than ``high``.
    """
    _need_finite(np.asarray([low, high], np.float64))
    if low > high:
        raise WrongRequest(f"a range must not end below its start, but {high} is below {low}")
    low, high = min(float(low), 0.0), max(float(high), 0.0)
    scale = _normal(np.asarray((high - low or 1.0) / levels))
    zero_point = np.clip(np.rint(-low / float(scale)), 0, levels)
    return np.float32(scale), np.uint8(zero_point)


def weight_amax(array: npt.NDArray[Any], axis: int) -> npt.NDArray[np.float32]:
    """Return the greatest magnitude of each channel of a weight: shape (channels,).

    Weights have no outliers to clip. Per channel, the min-max range loses least (Krishnamoorthi
    2018, arXiv 1806.08342, section 3).

    Args:
        array: weights of any float dtype.
        axis: the output channels' axis, 0 for an ONNX Conv; negative counts from the end.

    Raises:
        NotFinite: a weight is NaN or infinite. The message names the channel.
        WrongRequest: there is no such axis.
    """
    if not -array.ndim <= axis < array.ndim:
        raise WrongRequest(f"a weight of shape {array.shape} has no axis {axis}")
    rest = tuple(i for i in range(array.ndim) if i != axis % array.ndim)
    with np.errstate(over="ignore"):
        amax = np.abs(array).max(axis=rest, initial=0).astype(np.float32)
    if not np.isfinite(amax).all():
        channel = int(np.argmin(np.isfinite(amax)))
        raise NotFinite(f"a weight of channel {channel} is NaN or infinite", index=channel)
    return np.asarray(amax)


def _normal(scale: npt.NDArray[np.float64]) -> np.float32 | npt.NDArray[np.float32]:
    return np.maximum(scale, SMALLEST_SCALE).astype(np.float32)[()]


def _need_finite(values: npt.NDArray[np.float64]) -> None:
    finite = np.isfinite(values)
    if not finite.all():
        raise NotFinite("a range must be finite, not NaN or infinite", index=int(np.argmin(finite)))
