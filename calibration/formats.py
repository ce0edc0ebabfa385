"""The number formats that quantization rounds to, as rows of one table.

A quantized value is ``clip(round(x / scale))``. ``round`` depends on the distance between
neighboring numbers. It is 1 everywhere for integers, and grows with the magnitude for a
floating-point format.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
FormatName = Literal["int8", "uint8", "float8_e4m3fn"]
Kind = Literal["symmetric", "affine", "e4m3"]
"""The scheme of a range. ``symmetric``: signed INT8 about zero. ``affine``: UINT8 with a zero
point. ``e4m3``: FP8 about zero."""

E4M3_LARGEST = 448.0
_E4M3_MANTISSA_BITS = 3
_E4M3_SMALLEST_EXPONENT = -6  # below 2**-6 numbers are subnormal: the step stays 2**-9
HALF_SMALLEST_NORMAL = 2.0**-14


@dataclass(frozen=True)
class Format:
    """One number format.

    Attributes:
        name: numpy's name of the dtype (with ``ml_dtypes``).
        kind: the kind of range that it takes.
        largest: the greatest number; larger values are clipped to it.
        step: returns the distance between neighboring numbers at each value of an array.
        least_scale: a smaller scale is raised to this, as long as that loses no precision. A
            floating-point format keeps its relative precision for smaller numbers, and this is
            the smallest scale that FP16 holds precisely enough. 0: never raised.
    """

    name: FormatName
    kind: Kind
    largest: float
    step: Callable[[npt.NDArray[Any]], npt.NDArray[Any] | float]
    least_scale: float = 0.0

    def round(self, values: npt.NDArray[Any]) -> Floats:
        """Round to the nearest number, ties to even, and clip to the largest; in float64."""
        wide = np.asarray(values, np.float64)
        step = self.step(wide)
        return np.asarray(np.clip(np.rint(wide / step) * step, -self.largest, self.largest))

    def other(self, values: npt.NDArray[Any]) -> Floats:
        """Return the neighbor of each value that :meth:`round` does not choose.

        If a value is itself a number of the format, both return that number.
        """
        wide = np.asarray(values, np.float64)
        step = self.step(wide)
        scaled = wide / step
        other = (np.floor(scaled) + np.ceil(scaled) - np.rint(scaled)) * step
        return np.asarray(np.clip(other, -self.largest, self.largest))


def _whole(_: npt.NDArray[Any]) -> float:
    return 1.0


def _e4m3_step(values: npt.NDArray[Any]) -> Floats:
    """Return 2**(exponent - 3): 4 significant bits, and no exponent below -6.

    OCP 8-bit Floating Point Specification, revision 1.0, table 2: exponent bias 7, largest number
    1.75 * 2**8 = 448, smallest 2**-9.
    """
    exponent = np.frexp(values)[1] - 1
    finest = np.maximum(exponent, _E4M3_SMALLEST_EXPONENT) - _E4M3_MANTISSA_BITS
    return np.asarray(np.ldexp(1.0, finest))


FORMATS: dict[FormatName, Format] = {
    row.name: row
    for row in (
        Format("int8", "symmetric", 127, _whole),  # without -128, as TensorRT requires
        Format("uint8", "affine", 255, _whole),
        Format("float8_e4m3fn", "e4m3", E4M3_LARGEST, _e4m3_step, HALF_SMALLEST_NORMAL),
    )
}
