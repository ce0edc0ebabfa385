from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from calibration.errors import NoData, NotFinite
from calibration.histogram import BINS, CHUNK, Histogram

FINITE = st.floats(width=32, allow_nan=False, allow_infinity=False)
ARRAYS = hnp.arrays(np.float32, st.integers(1, 40), elements=FINITE)
IMAGES = hnp.arrays(np.float32, st.tuples(st.integers(1, 20), st.integers(1, 5)), elements=FINITE)


def observed(*arrays: np.ndarray) -> Histogram:
    histogram = Histogram()
    for array in arrays:
        histogram.observe(array)
    return histogram


def state(histogram: Histogram) -> tuple[object, ...]:
    octaves = {
        number: (octave.counts.tobytes(), octave.images, octave.weights)
        for number, octave in histogram.octaves.items()
    }
    return octaves, histogram.exponent, histogram.count, histogram.low, histogram.high


@settings(max_examples=60, deadline=None)
@given(IMAGES, st.randoms(use_true_random=False), st.integers(1, 7))
def test_state_depends_on_neither_order_nor_batches(images: np.ndarray, random, pieces) -> None:
    order = list(range(len(images)))
    random.shuffle(order)
    one_by_one = observed(*images)
    in_pieces = observed(*(part for part in np.array_split(images[order], pieces) if part.size))
    assert state(observed(images)) == state(one_by_one) == state(in_pieces)


@settings(max_examples=60, deadline=None)
@given(IMAGES)
def test_relative_weights_are_counts_over_the_mean_power(images: np.ndarray) -> None:
    histogram = observed(images)
    indices = np.trunc(images.astype(np.float64) / histogram.width).astype(np.int64) + BINS
    np.testing.assert_array_equal(
        histogram.counts, np.bincount(indices.ravel(), minlength=2 * BINS)
    )
    powers = (images.astype(np.float64) ** 2).mean(axis=1)
    octaves = [np.floor(np.log2(power) / 2) if power else -126 for power in powers]
    weights, numbers = histogram.relative_weights()
    assert numbers.tolist() == [octaves.count(octave) for octave in sorted(set(octaves))]
    for row, octave in zip(weights, sorted(set(octaves)), strict=True):
        alike = [i for i, each in enumerate(octaves) if each == octave]
        weight = np.mean([1 / powers[i] if powers[i] else 4.0**126 for i in alike])
        counts = np.bincount(indices[alike].ravel(), minlength=2 * BINS)
        np.testing.assert_allclose(row, counts * weight / counts.sum(), rtol=1e-5)  # 20 bits


@settings(max_examples=60, deadline=None)
@given(ARRAYS)
def test_counts_are_those_of_exact_division(values: np.ndarray) -> None:
    histogram = observed(*np.split(values, values.size))
    exact = np.trunc(values.astype(np.float64) / histogram.width).astype(np.int64)
    expected = np.bincount(exact + BINS, minlength=2 * BINS)
    np.testing.assert_array_equal(histogram.counts, expected)
    assert (histogram.low, histogram.high) == (values.min(), values.max())
    amax = float(np.abs(values).max())
    if amax >= 2.0**-100:  # far from the narrowest width
        assert BINS / 2 <= amax / histogram.width < BINS


@settings(max_examples=60, deadline=None)
@given(ARRAYS)
def test_mean_is_within_a_bin(values: np.ndarray) -> None:
    histogram = observed(values)
    assert abs(histogram.mean - values.astype(np.float64).mean()) <= histogram.width


def test_merging_takes_values_near_zero_to_the_zero_bin() -> None:
    # -0.3 lies in bin -4915 at first and in (-width, 0) once 1e4 was seen: zero's bin.
    both = np.float32([[1e4], [-0.3]])
    assert state(observed(both[1:], both[:1])) == state(observed(both))
    assert observed(np.float32([-0.3]), np.float32([1e4])).counts[BINS] == 1


def test_chunks_do_not_show() -> None:
    values = np.random.default_rng(0).normal(size=3 * CHUNK + 17).astype(np.float32)
    whole = observed(values.reshape(-1, 1))
    reversed_ = values[::-1].reshape(-1, 1)
    assert state(whole) == state(observed(reversed_[:CHUNK], reversed_[CHUNK:]))
    assert whole.count == values.size
    long = np.stack([values, values])
    assert state(observed(long)) == state(observed(values, values))


def test_a_relu_s_exact_minimum_is_kept_until_zero_is_seen() -> None:
    assert observed(np.float32([3, 2]), np.float32([5])).low == 2
    assert observed(np.float32([3, 2]), np.float32([5, 0])).low == 0
    assert str(observed(np.float32([-0.0])).low) == "0.0"


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, -np.nan])
def test_not_finite_is_refused_with_its_place(bad: float) -> None:
    values = np.zeros((3, CHUNK), np.float32)
    values[2, 5] = bad
    with pytest.raises(NotFinite) as caught:
        Histogram().observe(values)
    assert caught.value.index == 2 * CHUNK + 5


def test_a_double_beyond_float32_is_refused() -> None:
    with pytest.raises(NotFinite):
        Histogram().observe(np.array([1e39]))


def test_share_outside() -> None:
    histogram = observed(np.arange(1000, dtype=np.float32))
    assert histogram.share_outside(0, 999) == 0
    assert histogram.share_outside(0, 899.5) == pytest.approx(0.1)


def test_an_empty_histogram_has_no_range() -> None:
    with pytest.raises(NoData):
        _ = Histogram().amax
    with pytest.raises(NoData):
        Histogram().magnitudes()


def test_memory_does_not_grow_with_data() -> None:
    values = np.random.default_rng(0).normal(size=CHUNK).astype(np.float32)

    def peak(batches: int) -> int:
        tracemalloc.start()
        observed(*(values for _ in range(batches)))
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    peak(1)
    # The list of arguments is 8 bytes a batch; the batches themselves are 524 kB each.
    assert peak(64) < peak(4) + 4096
