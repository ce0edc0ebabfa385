"""The numbers of half precision (IEEE 754 binary16): what rounding to it loses."""

from __future__ import annotations

import numpy as np

from exporter.passes.constants import Array

LARGEST = 65504.0
SMALLEST_NORMAL = 2.0**-14
UNIT_ROUNDOFF = 2.0**-11
"""The largest relative error of rounding a number in the normal range."""
FINEST = 2.0**-25
"""Half the distance of subnormals: what rounding may take from the smallest numbers."""


def to_half(array: Array) -> Array:
    """Round float32 to float16, once, ties to even.

    Infinities stay; finite numbers beyond `LARGEST` must have been found before.
    """
    with np.errstate(over="ignore", under="ignore"):
        return np.asarray(array).astype(np.float16)


def overflows(array: Array) -> bool:
    """Whether a finite number has a magnitude that half precision does not reach."""
    finite = np.abs(array[np.isfinite(array)])
    return bool(finite.size and float(finite.max()) > LARGEST)


def underflow(array: Array) -> Array:
    """What each number loses by falling below the normal range, in float64; 0 for all others."""
    exact = np.asarray(array, np.float64)
    lost = np.abs(exact - to_half(array).astype(np.float64))
    return np.where(np.abs(exact) < SMALLEST_NORMAL, lost, 0.0)
