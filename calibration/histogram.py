"""One histogram for every calibration method: constant memory, one pass, no order.

Bins are ``2**exponent`` wide and aligned at zero: a value x belongs to bin ``trunc(x / width)``,
and the widest value seen decides the width. When one falls outside, bins merge in pairs and the
width doubles. ``trunc(trunc(v) / 2) == trunc(v / 2)`` and a division by a power of two is exact,
so merging gives the very counts that the wider bins would have counted: the state depends on the
multiset of values alone, not on the order or on how they were cut into batches.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from calibration.errors import NoData, NotFinite

Counts = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

BINS = 8192
"""Bins on each side of zero. The widest value lies in the upper half of them."""

CHUNK = 131072  # values: a few thousand bins are cleared and added for each, whatever its size
LARGEST_FINITE = 0x7F7FFFFF  # float32 bits; non-negative floats order as their bits do
NARROWEST = -126  # 2**126, the factor for this width, is still a normal float32


class Histogram:
    """Counts of a tensor's values, and their exact minimum and maximum.

    Attributes:
        counts: int64 of shape (2 * BINS,). ``counts[BINS + i]`` counts the values whose
            ``trunc(value / width)`` is i; i = 0 spans (-width, width).
        exponent: log2 of the bin width. Values under ``2**-126`` in a tensor that has no
            larger ones all count as zero.
        count: how many values were observed.
    """

    def __init__(self) -> None:
        self.counts: Counts = np.zeros(2 * BINS, np.int64)
        self.exponent = NARROWEST
        self.count = 0
        self._low = math.inf
        self._high = -math.inf

    def observe(self, values: npt.NDArray[Any]) -> None:
        """Count the values of an array of any shape; anything but float32 is cast to it.

        Raises:
            NotFinite: a value is NaN or infinite, or is not finite as float32. The histogram
                is then of no further use.
        """
        with np.errstate(over="ignore"):  # an overflow becomes an infinity, refused below
            flat = np.ascontiguousarray(values, np.float32).reshape(-1)
        indices = np.empty(min(CHUNK, flat.size), np.int16)
        for start in range(0, flat.size, CHUNK):
            self._observe_chunk(flat[start : start + CHUNK], indices, start)

    def _observe_chunk(
        self, chunk: npt.NDArray[np.float32], scratch: npt.NDArray[np.int16], start: int
    ) -> None:
        low, high = self._extent(chunk, start)
        self._low, self._high = min(self._low, low), max(self._high, high)
        self._widen(max(-low, high))
        indices = scratch[: chunk.size]
        factor = np.float32(math.ldexp(1.0, -self.exponent))
        np.multiply(chunk, factor, out=indices, casting="unsafe")
        first = BINS
        if low < 0:
            indices += BINS
            first = 0
        found = np.bincount(indices)
        self.counts[first : first + found.size] += found
        self.count += chunk.size

    def _extent(self, chunk: npt.NDArray[np.float32], start: int) -> tuple[float, float]:
        """Return (low, high); one pass over what a ReLU left instead of two.

        There the low end may be given as zero though it is more, once zero was seen.
        """
        bits = chunk.view(np.uint32).max()
        if bits <= LARGEST_FINITE:
            low = 0.0 if self._low <= 0 else float(chunk.min())
            return low, float(bits.view(np.float32))
        low, high = float(chunk.min()), float(chunk.max())
        if not (math.isfinite(low) and math.isfinite(high)):
            index = start + int(np.argmin(np.isfinite(chunk)))
            raise NotFinite(f"value {index} is not finite", index=index)
        return low, high

    def _widen(self, amax: float) -> None:
        needed = math.frexp(amax)[1] - (BINS.bit_length() - 1)
        if amax == 0 or needed <= self.exponent:
            return
        for _ in range(min(needed - self.exponent, BINS.bit_length()) if self.count else 0):
            self._merge_pairs()
        self.exponent = needed

    def _merge_pairs(self) -> None:
        merged = np.zeros_like(self.counts)
        merged[BINS : BINS + BINS // 2] = self.counts[BINS:].reshape(-1, 2).sum(axis=1)
        negative = self.counts[BINS:0:-1].copy()  # by magnitude
        negative[0] = 0  # the zero bin, merged above
        pairs = negative.reshape(-1, 2).sum(axis=1)
        merged[BINS] += pairs[0]  # trunc takes (-2 * width, 0) to zero
        merged[BINS - 1 : BINS - BINS // 2 : -1] += pairs[1:]
        self.counts = merged

    @property
    def width(self) -> float:
        """Width of a bin, in the tensor's unit."""
        return math.ldexp(1.0, self.exponent)

    @property
    def low(self) -> float:
        """The least value, exact."""
        self._need_data()
        return self._low + 0.0  # -0.0 and 0.0 compare equal, so which was kept is chance

    @property
    def high(self) -> float:
        """The greatest value, exact."""
        self._need_data()
        return self._high + 0.0

    @property
    def amax(self) -> float:
        """The greatest magnitude, exact."""
        return max(-self.low, self.high)

    @property
    def mean(self) -> float:
        """The mean to within one bin width: bins count as their middle, the zero bin as zero."""
        self._need_data()
        used = np.flatnonzero(self.counts)
        return float(self.counts[used] @ self.middles()[used] / self.count)

    def edges(self) -> tuple[Floats, Floats]:
        """Return each bin's lower and upper edge, float64 of shape (2 * BINS,)."""
        index = np.arange(-BINS, BINS, dtype=np.float64)
        lower = np.where(index > 0, index, index - 1)
        upper = np.where(index < 0, index, index + 1)
        return lower * self.width, upper * self.width

    def middles(self) -> Floats:
        """Return the value that stands for each bin, float64 of shape (2 * BINS,)."""
        lower, upper = self.edges()
        return lower / 2 + upper / 2

    def magnitudes(self) -> Counts:
        """Return counts of ``trunc(|x| / width)``, cut after the last that is not zero.

        Its length is more than BINS / 2 and at most BINS, unless all values are under 2**-126.
        """
        self._need_data()
        folded: Counts = self.counts[BINS:].copy()
        folded[1:] += self.counts[BINS - 1 : 0 : -1]
        last = int(np.flatnonzero(folded)[-1])
        return np.asarray(folded[: last + 1])

    def share_outside(self, low: float, high: float) -> float:
        """Return the share of values outside [low, high], 0 to 1, by their bins' middles."""
        self._need_data()
        middles = np.clip(self.middles(), self.low, self.high)
        outside = self.counts[(middles < low) | (middles > high)].sum()
        return float(outside / self.count)

    def _need_data(self) -> None:
        if not self.count:
            raise NoData("nothing was observed, so there is no range")
