"""The limits of half precision (IEEE 754 binary16), and the errors of rounding to it."""

from __future__ import annotations

import numpy as np

from exporter.passes.constants import Array

LARGEST = 65504.0
SMALLEST_NORMAL = 2.0**-14
UNIT_ROUNDOFF = 2.0**-11
"""The largest relative error of rounding a number in the normal range."""
FINEST = 2.0**-25
"""Half the distance between subnormals: the largest rounding error of the smallest numbers."""


def to_half(array: Array) -> Array:
    """Round float32 to float16, ties to even.

    Infinities stay. The caller must already have ruled out finite numbers beyond `LARGEST`.
    """
    with np.errstate(over="ignore", under="ignore"):
        return np.asarray(array).astype(np.float16)


def overflows(array: Array) -> bool:
    """Whether the magnitude of a finite number is too large for half precision."""
    finite = np.abs(array[np.isfinite(array)])
    return bool(finite.size and float(finite.max()) > LARGEST)


def underflow(array: Array) -> Array:
    """Return each number's error from falling below the normal range, in float64; 0 for others."""
    exact = np.asarray(array, np.float64)
    lost = np.abs(exact - to_half(array).astype(np.float64))
    return np.where(np.abs(exact) < SMALLEST_NORMAL, lost, 0.0)
