"""The range with the least mean squared quantisation error, over a histogram's bins.

Clipping trades the error of a few large values against a finer step for all others; Sung et al.
2015 (arXiv 1511.06488) choose by L2 error, as NVIDIA's "mse" calibrator does (Wu et al. 2020,
arXiv 2004.09602, section 3.2). Theirs sums over values; here an image's error is relative to the
image's own power, so that a few images of large activations don't set the step for all others
(see `calibration.power`; where images are alike in power the two are the same). Each bin counts
as its middle, the zero bin as zero.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from calibration.histogram import Floats, Histogram
from calibration.scales import INT8_LEVELS, affine_scale_zero_point, symmetric_scale

OCTAVES = 6  # the narrowest candidate is 1/64 of the widest value
PER_OCTAVE = 24  # 3% apart
FINER = 8  # then this many on each side of the best
ROUNDS = 2


def mse_amax(histogram: Histogram) -> float:
    """Return the magnitude to clip at for the signed symmetric scheme."""
    values, weights = _bins(histogram)

    def error(amax: float) -> float:
        scale = float(symmetric_scale(amax))
        rounded = np.clip(np.rint(values / scale), -INT8_LEVELS, INT8_LEVELS) * scale
        return float(weights @ (rounded - values) ** 2)

    return _search(error, histogram.amax)


def mse_range(histogram: Histogram) -> tuple[float, float]:
    """Return (low, high) to clip at for the unsigned affine scheme.

    Both ends are first clipped at one magnitude, then each in turn while the other stays.
    """
    values, weights = _bins(histogram)
    least, greatest = min(histogram.low, 0.0), max(histogram.high, 0.0)

    def error(low: float, high: float) -> float:
        scale, zero_point = affine_scale_zero_point(low, high)
        step, zero = float(scale), float(zero_point)
        rounded = (np.clip(np.rint(values / step) + zero, 0, 255) - zero) * step
        return float(weights @ (rounded - values) ** 2)

    amax = _search(lambda t: error(max(least, -t), min(greatest, t)), histogram.amax)
    low, high = max(least, -amax), min(greatest, amax)
    if least == 0 or greatest == 0:
        return low, high
    for _ in range(ROUNDS):
        high = _search(lambda t, low=low: error(low, t), greatest)  # type: ignore[misc]
        low = -_search(lambda t, high=high: error(-t, high), -least)  # type: ignore[misc]
    return low, high


def _bins(histogram: Histogram) -> tuple[Floats, Floats]:
    weights = histogram.relative_weights()
    used = np.flatnonzero(weights)
    values = np.clip(histogram.middles()[used], histogram.low, histogram.high)
    return values, weights[used] / weights.sum()


def _search(error: Callable[[float], float], widest: float) -> float:
    """Return the end in (0, widest] of least error; the widest among equals."""
    exponents = np.arange(OCTAVES * PER_OCTAVE + 1) / PER_OCTAVE
    best = min(exponents, key=lambda e: error(widest * 2.0**-e))
    near = best + np.arange(-FINER, FINER + 1) / (FINER * PER_OCTAVE)
    finer = [best, *near[near >= 0]]
    return float(widest * 2.0 ** -min(finer, key=lambda e: error(widest * 2.0**-e)))
