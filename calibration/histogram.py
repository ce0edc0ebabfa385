"""One histogram for all calibration methods: constant memory, one pass, in any order.

Bins are ``2**exponent`` wide and aligned at zero: a value x belongs to bin ``trunc(x / width)``,
and the widest value seen decides the width. When one falls outside, bins merge in pairs and the
width doubles. ``trunc(trunc(v) / 2) == trunc(v / 2)`` and a division by a power of two is exact,
so merging gives exactly the counts of the wider bins. The state depends only on which values
were seen, not on their order or on how they were cut into batches.

Values are counted separately by the octave of their image's root mean square
(`calibration.power`), so that a method can weight all images alike. The octaves, too, depend on
the images alone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from calibration.errors import NoData, NotFinite
from calibration.power import image_powers

Counts = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

BINS = 8192
"""Bins on each side of zero. The widest value lies in the upper half of them."""

CHUNK = 131072  # values; each chunk clears and adds a few thousand bins, whatever its size
_SIGN = 0x80000000  # of float32 bits; non-negative floats order as their bits do
NARROWEST = -126  # 2**126, the factor for this width, is still a normal float32


_WHOLE = 2**20  # a weight of 1, as an integer: sums of integers don't depend on their order


@dataclass
class Octave:
    """Images whose root mean square has the same floor(log2).

    Attributes:
        counts: int64 of shape (2 * BINS,). ``counts[BINS + i]`` counts the values whose
            ``trunc(value / width)`` is i; i = 0 spans (-width, width).
        images: how many images there are.
        weights: sum over the images of 4**octave / power, each in (1/4, 1], in units of 2**-20.
            An image of zeros counts 1, since every range represents it exactly.
    """

    counts: Counts = field(default_factory=lambda: np.zeros(2 * BINS, np.int64))
    images: int = 0
    weights: int = 0


class Histogram:
    """Counts of a tensor's values, and their exact minimum and maximum.

    Attributes:
        octaves: counts and images, by floor(log2) of the image's root mean square.
        exponent: log2 of the bin width. If a tensor has no values above ``2**-126``, all its
            values count as zero.
        count: how many values were observed.
    """

    def __init__(self) -> None:
        self.octaves: dict[int, Octave] = {}
        self.exponent = NARROWEST
        self.count = 0
        self._low = math.inf
        self._high = -math.inf

    def observe(self, values: npt.NDArray[Any]) -> None:
        """Count the values of an array; other dtypes are cast to float32.

        Args:
            values: (images, ...); an array of one axis or none is one image.

        Raises:
            NotFinite: a value is NaN or infinite, or is not finite as float32. Don't use the
                histogram after that.
        """
        with np.errstate(over="ignore"):  # an overflow becomes an infinity, an error below
            array = np.ascontiguousarray(values, np.float32)
        if not array.size:
            return
        images = array.reshape(len(array) if array.ndim > 1 else 1, -1)
        powers = image_powers(images)
        if not np.isfinite(powers).all():
            index = int(np.argmin(np.isfinite(images.reshape(-1))))
            raise NotFinite(f"value {index} is NaN or infinite", index=index)
        of_images = np.where(powers > 0, np.frexp(np.sqrt(powers))[1] - 1, NARROWEST)
        scratch = np.empty(min(CHUNK, array.size), np.int16)
        for number in np.unique(of_images):
            chosen = of_images == number
            octave = self.octaves.setdefault(int(number), Octave())
            octave.images += int(chosen.sum())
            relative = np.where(powers > 0, powers / 4.0 ** int(number), 1)[chosen]
            octave.weights += int(np.rint(_WHOLE / relative).astype(np.int64).sum())
            flat = (images if chosen.all() else images[chosen]).reshape(-1)
            for start in range(0, flat.size, CHUNK):
                self._observe_chunk(flat[start : start + CHUNK], scratch, octave)

    def _observe_chunk(
        self, chunk: npt.NDArray[np.float32], scratch: npt.NDArray[np.int16], octave: Octave
    ) -> None:
        low, high = self._extent(chunk)
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
        octave.counts[first : first + found.size] += found
        self.count += chunk.size

    def _extent(self, chunk: npt.NDArray[np.float32]) -> tuple[float, float]:
        """Return (low, high); a ReLU's output takes one pass instead of two.

        If no value is negative and zero was seen before, low is zero even if the chunk has none.
        """
        bits = chunk.view(np.uint32).max()
        if bits < _SIGN:
            low = 0.0 if self._low <= 0 else float(chunk.min())
            return low, float(bits.view(np.float32))
        return float(chunk.min()), float(chunk.max())

    def _widen(self, amax: float) -> None:
        needed = math.frexp(amax)[1] - (BINS.bit_length() - 1)
        if amax == 0 or needed <= self.exponent:
            return
        for _ in range(min(needed - self.exponent, BINS.bit_length())):
            for octave in self.octaves.values():
                octave.counts = _merged(octave.counts)
        self.exponent = needed

    @property
    def counts(self) -> Counts:
        """Counts over all images, int64 of shape (2 * BINS,)."""
        total = np.zeros(2 * BINS, np.int64)
        for octave in self.octaves.values():
            total += octave.counts
        return total

    def relative_weights(self) -> tuple[Floats, Floats]:
        """Return the weights that make squared errors relative, and the images of each octave.

        Returns:
            float64 (octaves, 2 * BINS): a row times the squared error of each bin is the mean
            square error divided by the power, averaged over the images of that octave. And
            float64 (octaves,): the number of images.
        """
        self._need_data()
        rows, images = [], []
        for number in sorted(self.octaves):  # a sum of floats depends on its order
            octave = self.octaves[number]
            by_power = octave.weights / (octave.images * _WHOLE) * 4.0**-number
            rows.append(octave.counts * (by_power / octave.counts.sum()))
            images.append(octave.images)
        return np.stack(rows), np.asarray(images, np.float64)

    @property
    def width(self) -> float:
        """Width of a bin, in the tensor's unit."""
        return math.ldexp(1.0, self.exponent)

    @property
    def low(self) -> float:
        """The least value, exact."""
        self._need_data()
        return self._low + 0.0  # min() may keep -0.0 or 0.0, since they compare equal

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
        """The mean, within one bin width: each bin counts as its middle, the zero bin as zero."""
        self._need_data()
        counts = self.counts
        used = np.flatnonzero(counts)
        return float(counts[used] @ self.middles()[used] / self.count)

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
        """Return counts of ``trunc(|x| / width)``, cut after the last nonzero count.

        Its length is more than BINS / 2 and at most BINS, unless all values are under 2**-126.
        """
        self._need_data()
        counts = self.counts
        folded: Counts = counts[BINS:].copy()
        folded[1:] += counts[BINS - 1 : 0 : -1]
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
            raise NoData("the histogram is empty, so there is no range")


def _merged(counts: Counts) -> Counts:
    """Return the counts in bins of twice the width."""
    merged = np.zeros_like(counts)
    merged[BINS : BINS + BINS // 2] = counts[BINS:].reshape(-1, 2).sum(axis=1)
    negative = counts[BINS:0:-1].copy()  # by magnitude
    negative[0] = 0  # the zero bin, merged above
    pairs = negative.reshape(-1, 2).sum(axis=1)
    merged[BINS] += pairs[0]  # trunc takes (-2 * width, 0) to zero
    merged[BINS - 1 : BINS - BINS // 2 : -1] += pairs[1:]
    return merged
