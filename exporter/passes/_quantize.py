"""Compute the numbers of quantization: scales, zero points, integer weights and biases."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from calibration.formats import Format
from exporter.passes.constants import Array
from exporter.passes.schemes import Scheme

# Runtimes multiply by 1 / scale in float32, which is infinite for a denormal.
_SMALLEST_SCALE = float(np.finfo(np.float32).tiny)
_LARGEST_SCALE = float(np.finfo(np.float32).max)
# The sum of products is added to the bias, so half of int32's range is left for it.
_LARGEST_BIAS = 2**30


@dataclass(frozen=True)
class ActivationParameters:
    """real = (quantized - zero_point) * scale; both are 0-d, float32 and the scheme's dtype."""

    scale: Array
    zero_point: Array


def activation_parameters(
    low: float, high: float, scheme: Scheme, *, limit: float | None = None
) -> ActivationParameters:
    """Return the scale and zero point of an activation.

    Args:
        low: smallest value to represent.
        high: largest value to represent. The range is widened to include 0, for padding.
        scheme: if it is symmetric, scale = max(-low, high) / 127 (/ 448 for FP8); otherwise
            scale = (high - low) / 255.
        limit: if given, no represented value may be above it (for fusing a Clip).

    Returns:
        A positive and finite scale for any finite range; 1 if the range is empty.
    """
    low, high = min(low, 0.0), max(high, 0.0)
    if scheme.symmetric:
        scale = _symmetric_scale(np.float64(max(-low, high)), scheme.activations)
        return ActivationParameters(scale, np.zeros((), scheme.dtype))
    scale = _scale(high / 255 - low / 255)
    if limit is not None and low == 0 and float(scale) * 255 > limit > 0:
        scale = np.nextafter(scale, np.float32(0))
    zero_point = np.clip(np.rint(-low / float(scale)), 0, 255)
    return ActivationParameters(scale, np.asarray(zero_point, scheme.dtype))


def weight_scales(weight: Array, axis: int, number: Format) -> Array:
    """Return each channel's largest magnitude / the format's largest; 1 for a channel of zeros.

    A scale below the format's least scale is raised to it, as long as the channel's largest
    quantized weight stays at 1 or more. E4M3 then has six binades below it in full precision.

    Returns:
        float32 of shape [channels].
    """
    others = tuple(i for i in range(weight.ndim) if i != axis)
    amax = np.abs(weight.astype(np.float64)).max(axis=others, initial=0)
    return _symmetric_scale(amax, number)


def _symmetric_scale(amax: Array, number: Format) -> Array:
    exact = amax / number.largest
    raised = np.where(amax >= number.least_scale, np.maximum(exact, number.least_scale), exact)
    return _scale(np.where(amax == 0, 0.0, raised))


def widen_for_bias(scales: Array, weight_is_zero: Array, bias: Array, input_scale: Array) -> Array:
    """Raise weight scales until each bias fits int32 in units of input_scale * weight_scale.

    Otherwise a channel with tiny weights and an ordinary bias would overflow. A channel of zeros
    gets the finest scale that holds its bias, because its output is only the bias.
    """
    for_bias = np.abs(bias) / (float(input_scale) * _LARGEST_BIAS)
    least = np.maximum(for_bias, 2 * _SMALLEST_SCALE / float(input_scale))
    chosen = np.where(weight_is_zero & (for_bias > 0), least, scales.astype(np.float64))
    return _scale(np.maximum(chosen, least))


def quantize_weight(
    weight: Array, scales: Array, axis: int, number: Format, dtype: np.dtype[Any]
) -> Array:
    """Return round(weight / scale), ties to even, clipped to the format's largest number."""
    shape = [1] * weight.ndim
    shape[axis] = -1
    scaled = weight.astype(np.float64) / scales.astype(np.float64).reshape(shape)
    return number.round(scaled).astype(dtype)


def bias_scales(scales: Array, input_scale: Array) -> Array:
    """Return input_scale * weight_scale in float32, as integer kernels expect."""
    return np.asarray(scales * np.float32(input_scale), np.float32)


def quantize_bias(bias: Array, scales: Array) -> Array:
    """Return round(bias / scale), clipped to int32."""
    info = np.iinfo(np.int32)
    return np.clip(np.rint(bias / scales.astype(np.float64)), info.min, info.max).astype(np.int32)


def zero_channels(weight: Array, axis: int) -> Array:
    """Return which channels along `axis` have only zero weights; bool of shape [channels]."""
    others = tuple(i for i in range(weight.ndim) if i != axis)
    return np.asarray(~weight.any(axis=others))


def _scale(exact: Array | float) -> Array:
    """Round to float32 within its normal range; return 1 for 0."""
    wide = np.where(np.asarray(exact) == 0, 1.0, exact)
    return np.clip(wide, _SMALLEST_SCALE, _LARGEST_SCALE).astype(np.float32)
