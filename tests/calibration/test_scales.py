from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from calibration.errors import NotFinite, WrongRequest
from calibration.scales import affine_scale_zero_point, symmetric_scale, weight_amax

BOUND = float(np.float32(1e30))
FINITE = st.floats(-BOUND, BOUND, width=32)  # zeros and denormals are among them
ARRAYS = hnp.arrays(np.float32, st.integers(1, 30), elements=FINITE)
# Half a step, and float32's rounding of x / scale: 2**-24 of at most 255 steps, twice.
HALF = 0.5 + 255 * 2.0**-23


def usable(scale: np.ndarray | np.float32) -> bool:
    normal = np.finfo(np.float32).smallest_normal
    return scale.dtype == np.float32 and bool(np.all(np.isfinite(scale) & (scale >= normal)))


@settings(max_examples=200, deadline=None)
@given(ARRAYS)
def test_symmetric_round_trip_errs_by_half_a_scale(values: np.ndarray) -> None:
    scale = symmetric_scale(np.abs(values).max())
    assert usable(scale)
    quantised = np.clip(np.rint(values / scale), -127, 127).astype(np.int8)
    error = np.abs(quantised * np.float64(scale) - values)
    assert error.max() <= HALF * scale


@settings(max_examples=200, deadline=None)
@given(ARRAYS)
def test_affine_round_trip_errs_by_half_a_scale(values: np.ndarray) -> None:
    scale, zero_point = affine_scale_zero_point(values.min(), values.max())
    assert usable(scale)
    assert isinstance(zero_point, np.uint8)
    zero = np.float32(zero_point)
    quantised = np.clip(np.rint(values / scale) + zero, 0, 255).astype(np.uint8)
    error = np.abs((quantised - np.float64(zero)) * np.float64(scale) - values)
    assert error.max() <= HALF * scale


@settings(max_examples=100, deadline=None)
@given(hnp.arrays(np.float32, st.tuples(st.integers(1, 5), st.integers(1, 4)), elements=FINITE))
def test_channel_scales_are_usable_and_hold_every_weight(weight: np.ndarray) -> None:
    weight[0] = 0  # one channel all zero
    for axis in (0, 1, -1):
        scale = symmetric_scale(weight_amax(weight, axis))
        assert usable(scale)
        assert scale.shape == (weight.shape[axis],)
        shaped = scale.reshape([-1 if i == axis % 2 else 1 for i in range(2)])
        error = np.abs(np.clip(np.rint(weight / shaped), -127, 127) * shaped - weight)
        assert np.all(error <= HALF * shaped)


@pytest.mark.parametrize("amax", [0, 1e-45, 1e-38, 1, 1e30, 3.4028235e38])
def test_scales_at_the_ends_of_float32(amax: float) -> None:
    assert usable(symmetric_scale(amax))
    assert usable(symmetric_scale(amax, levels=64))
    assert usable(affine_scale_zero_point(-amax, amax)[0])
    assert usable(affine_scale_zero_point(amax, amax)[0])


def test_by_hand() -> None:
    assert symmetric_scale(2.54) == np.float32(0.02)
    assert affine_scale_zero_point(0, 5.1) == (np.float32(0.02), 0)
    assert affine_scale_zero_point(-1, 1.55) == (np.float32(0.01), 100)
    assert affine_scale_zero_point(2, 5.1) == (np.float32(0.02), 0)  # zero is inside always
    assert affine_scale_zero_point(-5.1, -2) == (np.float32(0.02), 255)
    np.testing.assert_array_equal(weight_amax(np.float32([[1, -3], [0, 0]]), 0), [3, 0])


@given(st.floats(), st.floats())
def test_bad_ranges_are_refused(low: float, high: float) -> None:
    assume(not (np.isfinite([low, high]).all() and low <= high))
    with pytest.raises((NotFinite, WrongRequest)):
        affine_scale_zero_point(low, high)


def test_bad_weights_are_refused() -> None:
    with pytest.raises(NotFinite, match="channel 1"):
        weight_amax(np.float32([[1, 2], [np.nan, 3]]), 0)
    with pytest.raises(WrongRequest, match="axis 2"):
        weight_amax(np.zeros((3, 3), np.float32), 2)
    with pytest.raises(WrongRequest, match="negative"):
        symmetric_scale([1.0, -1.0])
    with pytest.raises(NotFinite):
        symmetric_scale(np.inf)
