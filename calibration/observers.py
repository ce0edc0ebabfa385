"""Choose the range to quantize: four methods over one histogram, chosen after the pass.

Wu et al. 2020 (arXiv 2004.09602, section 3.2) describe and compare all four.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from calibration.entropy import LEVELS, entropy_amax
from calibration.errors import WrongRequest
from calibration.formats import FORMATS, Format, Kind
from calibration.histogram import BINS, Counts, Floats, Histogram
from calibration.mse import mse_amax, mse_range

DEFAULT_PERCENTILE = 99.99
_SIGNED: dict[Kind, Format] = {row.kind: row for row in FORMATS.values() if row.kind != "affine"}


@dataclass(frozen=True)
class Range:
    """A range of values: those outside are clipped, and zero is always inside."""

    low: float
    high: float

    @property
    def amax(self) -> float:
        """The greatest magnitude inside."""
        return max(-self.low, self.high)


@dataclass(frozen=True)
class Request:
    """The arguments of a method besides the histogram."""

    kind: Kind
    percentile: float = DEFAULT_PERCENTILE


def minmax(histogram: Histogram, request: Request) -> Range:
    """Return the range of all values: nothing is clipped, and outliers coarsen the step."""
    return _shaped(histogram, request.kind, histogram.amax)


def percentile(histogram: Histogram, request: Request) -> Range:
    """Return the range that holds a given share of the values, including exact zeros.

    For a symmetric range, and for an affine one on data of one sign, this is that percentile of
    the magnitude. For an affine range on data of both signs, half of the rest is cut on each
    side. The result is within one bin width of the percentile of the sorted data.
    """
    share = request.percentile / 100
    if request.kind in _SIGNED or _one_sided(histogram):
        counts = histogram.magnitudes()
        lower = np.arange(counts.size, dtype=np.float64) * np.float64(histogram.width)
        amax = _quantile(counts, lower, lower + histogram.width, share)
        return _shaped(histogram, request.kind, min(amax, histogram.amax))
    tail = (1 - share) / 2
    lower, upper = histogram.edges()
    low = _quantile(histogram.counts, lower, upper, tail)
    high = _quantile(histogram.counts, lower, upper, 1 - tail)
    return Range(min(max(low, histogram.low), 0.0), max(min(high, histogram.high), 0.0))


def entropy(histogram: Histogram, request: Request) -> Range:
    """Return the range of least KL divergence (Migacz, GTC 2017; see ``calibration.entropy``).

    The published method works on magnitudes only, so both kinds are clipped at the same one.
    """
    counts, amax = histogram.magnitudes(), histogram.amax
    return _shaped(histogram, request.kind, entropy_amax(counts, histogram.width, amax, LEVELS))


def mse(histogram: Histogram, request: Request) -> Range:
    """Return the range of least mean squared error (see ``calibration.mse``)."""
    if request.kind in _SIGNED:
        return _shaped(histogram, request.kind, mse_amax(histogram, _SIGNED[request.kind]))
    return Range(*mse_range(histogram))


CALIBRATORS: dict[str, Callable[[Histogram, Request], Range]] = {
    "entropy": entropy,
    "mse": mse,
    "percentile": percentile,
    "minmax": minmax,
}
UNFIT: dict[tuple[str, Kind], str] = {
    ("entropy", "e4m3"): "it assumes evenly spaced levels, and FP8's are not",
}
"""Methods that can't choose ranges of a kind, and why."""


def find_range(
    histogram: Histogram,
    method: str,
    kind: Kind,
    *,
    percentile: float = DEFAULT_PERCENTILE,
) -> Range:
    """Return the range that a method chooses for a tensor.

    Args:
        histogram: the histogram of the tensor's values.
        method: a name in ``CALIBRATORS``.
        kind: the scheme the range is for; all but an affine one have ``low == -high``.
        percentile: share of values to keep, in percent; only the percentile method uses it.

    Raises:
        NoData: the histogram is empty.
        WrongRequest: there is no such method, it can't choose ranges of this kind, or the
            percentile is not in (0, 100].
    """
    if method not in CALIBRATORS:
        near = difflib.get_close_matches(method, CALIBRATORS, n=1)
        hint = f"did you mean: {near[0]}?" if near else f"known: {', '.join(CALIBRATORS)}"
        raise WrongRequest(f"unknown calibrator {method!r}", hint=hint)
    if (why := UNFIT.get((method, kind))) is not None:
        raise WrongRequest(f"calibrator {method!r} can't choose ranges for {kind}: {why}")
    if not 0 < percentile <= 100:
        raise WrongRequest(f"a percentile must be over 0 and at most 100, not {percentile}")
    return CALIBRATORS[method](histogram, Request(kind, percentile))


def _shaped(histogram: Histogram, kind: Kind, amax: float) -> Range:
    """Clip at one magnitude: about zero if signed, otherwise no wider than the data and zero."""
    if kind in _SIGNED:
        return Range(-amax + 0.0, amax)
    return Range(min(max(histogram.low, -amax), 0.0), max(min(histogram.high, amax), 0.0))


def _one_sided(histogram: Histogram) -> bool:
    return histogram.low >= 0 or histogram.high <= 0


def _quantile(counts: Counts, lower: Floats, upper: Floats, share: float) -> float:
    """Return the value of rank ``ceil(share * n)``, assuming values lie evenly in their bin."""
    cumulative = np.cumsum(counts)
    rank = max(1, math.ceil(share * int(cumulative[-1])))
    bin_ = int(np.searchsorted(cumulative, rank))
    inside = (rank - int(cumulative[bin_]) + int(counts[bin_])) / int(counts[bin_])
    return float(lower[bin_] + inside * (upper[bin_] - lower[bin_]))


__all__ = [
    "BINS",
    "CALIBRATORS",
    "DEFAULT_PERCENTILE",
    "UNFIT",
    "Histogram",
    "Kind",
    "Range",
    "Request",
    "find_range",
]
