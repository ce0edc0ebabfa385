"""The table of number formats, against ml_dtypes' E4M3 and against plain rounding."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calibration.formats import E4M3_LARGEST, FORMATS, HALF_SMALLEST_NORMAL

E4M3, INT8 = FORMATS["float8_e4m3fn"], FORMATS["int8"]
# All numbers of the format but its two NaN, from its 256 codes.
CODES = np.arange(256, dtype=np.uint8).view(ml_dtypes.float8_e4m3fn).astype(np.float64)
GRID = np.unique(CODES[np.isfinite(CODES)] + 0.0)


def cast(values: np.ndarray) -> np.ndarray:
    """What Q does: clip, then round to E4M3 by ml_dtypes."""
    clipped = np.clip(values, -E4M3_LARGEST, E4M3_LARGEST)
    return clipped.astype(ml_dtypes.float8_e4m3fn).astype(np.float64)


def test_the_grid_is_as_the_specification_has_it() -> None:
    assert (GRID[0], GRID[-1], GRID.size) == (-448, 448, 253)  # 256, less two NaN and -0
    assert GRID[GRID > 0].min() == 2.0**-9
    np.testing.assert_array_equal(E4M3.round(GRID), GRID)
    np.testing.assert_array_equal(E4M3.other(GRID), GRID)


def test_ties_and_ends_are_those_of_ml_dtypes() -> None:
    middles = (GRID[1:] + GRID[:-1]) / 2
    beside = np.concatenate([np.nextafter(middles, side) for side in (-np.inf, np.inf)])
    beyond = np.array([448.1, 463.9, 464, 465, 480, 1e9, np.inf, 2.0**-10, 2.0**-11, 0.0])
    values = np.concatenate([middles, beside.astype(np.float32), beyond, -beyond])
    np.testing.assert_array_equal(E4M3.round(values), cast(values))


@settings(max_examples=300, deadline=None)
@given(st.lists(st.floats(-600, 600, width=32), min_size=1, max_size=20))
def test_any_float32_is_rounded_as_ml_dtypes_does(numbers: list[float]) -> None:
    values = np.asarray(numbers, np.float32)
    np.testing.assert_array_equal(E4M3.round(values), cast(values))


def test_small_numbers_too() -> None:
    values = np.float32(np.random.default_rng(0).normal(size=20_000) * 2.0**-7)
    np.testing.assert_array_equal(E4M3.round(values), cast(values))


@pytest.mark.parametrize("scale", [300, 1, 2.0**-8])
def test_the_two_neighbors_are_the_nearest_of_the_grid(scale: float) -> None:
    values = np.random.default_rng(1).uniform(-1, 1, 2000) * scale
    above = np.searchsorted(GRID, values)
    low, high = GRID[above - 1], GRID[above]
    near, other = E4M3.round(values), E4M3.other(values)
    np.testing.assert_array_equal(np.minimum(near, other), low)
    np.testing.assert_array_equal(np.maximum(near, other), high)
    assert (np.abs(near - values) <= np.abs(other - values)).all()


def test_integers_round_as_they_always_did() -> None:
    values = np.random.default_rng(2).uniform(-200, 200, 5000)
    np.testing.assert_array_equal(INT8.round(values), np.clip(np.rint(values), -127, 127))


def test_only_a_floating_point_format_raises_a_scale() -> None:
    assert [row.least_scale for row in FORMATS.values()] == [0, 0, HALF_SMALLEST_NORMAL]
    assert np.finfo(np.float16).smallest_normal == HALF_SMALLEST_NORMAL
