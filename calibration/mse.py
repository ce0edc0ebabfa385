"""Choose the range with the least squared quantization error over a histogram's bins.

Clipping trades the error of a few large values against a finer step for all others. Sung et al.
2015 (arXiv 1511.06488) choose by L2 error, as NVIDIA's "mse" calibrator does (Wu et al. 2020,
arXiv 2004.09602, section 3.2). They sum over all values. This module averages the images'
relative errors (see `calibration.power`) as a geometric mean, which is the mean of their SQNRs in
dB, because the label of an image depends on that image's own error. A sum would never clip a few
images with larger activations, and all others would pay with a coarser step. If all images have
the same power, all three are the same. Each bin counts as its middle, the zero bin as zero.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from calibration.formats import Format
from calibration.histogram import Floats, Histogram
from calibration.scales import affine_scale_zero_point, symmetric_scale

OCTAVES = 6  # the narrowest candidate is 1/64 of the widest value
PER_OCTAVE = 24  # 3% apart
FINER = 8  # then this many more candidates on each side of the best
ROUNDS = 2
FLOOR = 1e-4
"""Relative error of 40 dB. Errors below it hardly matter, and 8 bits seldom reach it."""


def mse_amax(histogram: Histogram, number: Format) -> float:
    """Return the magnitude to clip at for a signed format without a zero point."""
    values, mean_error = _objective(histogram)

    def error(amax: float) -> float:
        scale = float(symmetric_scale(amax, levels=number.largest))
        return mean_error(number.round(values / scale) * scale)

    return _search(error, histogram.amax)


def mse_range(histogram: Histogram) -> tuple[float, float]:
    """Return (low, high) to clip at for the unsigned affine scheme.

    First both ends are clipped at one magnitude. Then each end is searched with the other fixed.
    """
    values, mean_error = _objective(histogram)
    least, greatest = min(histogram.low, 0.0), max(histogram.high, 0.0)

    def error(low: float, high: float) -> float:
        scale, zero_point = affine_scale_zero_point(low, high)
        step, zero = float(scale), float(zero_point)
        return mean_error((np.clip(np.rint(values / step) + zero, 0, 255) - zero) * step)

    amax = _search(lambda t: error(max(least, -t), min(greatest, t)), histogram.amax)
    low, high = max(least, -amax), min(greatest, amax)
    if least == 0 or greatest == 0:
        return low, high
    for _ in range(ROUNDS):
        high = _search(lambda t, low=low: error(low, t), greatest)  # type: ignore[misc]
        low = -_search(lambda t, high=high: error(-t, high), -least)  # type: ignore[misc]
    return low, high


def _objective(histogram: Histogram) -> tuple[Floats, Callable[[Floats], float]]:
    """Return the bins' values, and the function that gives the error after they are rounded.

    That error is the mean over images of log(`FLOOR` + relative error).
    """
    weights, images = histogram.relative_weights()
    used = np.flatnonzero(weights.any(axis=0))
    values = np.clip(histogram.middles()[used], histogram.low, histogram.high)
    weights, share = weights[:, used], images / images.sum()

    def mean_error(rounded: Floats) -> float:
        return float(share @ np.log(FLOOR + weights @ (rounded - values) ** 2))

    return values, mean_error


def _search(error: Callable[[float], float], widest: float) -> float:
    """Return the end in (0, widest] with the least error; the widest among equals."""
    exponents = np.arange(OCTAVES * PER_OCTAVE + 1) / PER_OCTAVE
    best = min(exponents, key=lambda e: error(widest * 2.0**-e))
    near = best + np.arange(-FINER, FINER + 1) / (FINER * PER_OCTAVE)
    finer = [best, *near[near >= 0]]
    return float(widest * 2.0 ** -min(finer, key=lambda e: error(widest * 2.0**-e)))
