"""Rounding by coordinate descent, against every way to round."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calibration.formats import FORMATS
from calibration.rounding import DAMPING, round_rows

INT8 = FORMATS["int8"]


def problem(seed, channels=3, features=8, images=30, correlated=True):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(images, features))
    if correlated:
        x = x @ rng.normal(size=(features, features)) + rng.normal(size=features)
    return rng.uniform(-5, 5, (channels, features)), x.T @ x / images


def cost(difference, moments):
    return np.einsum("ci,ij,cj->c", difference, moments, difference)


def best(scaled, moments):
    """By trying all."""
    rows = []
    for row in scaled:
        ways = np.array(list(product(*zip(np.floor(row), np.ceil(row), strict=True))))
        rows.append(ways[np.argmin(cost(ways - row, moments))])
    return np.array(rows)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_no_worse_than_nearest_and_no_better_than_the_best(seed):
    scaled, moments = problem(seed)
    found = round_rows(scaled, moments, INT8)
    damped = moments + np.eye(8) * DAMPING * moments.trace() / 8
    nearest, lowest = (cost(q - scaled, damped) for q in (np.rint(scaled), best(scaled, damped)))
    got = cost(found.integers - scaled, damped)
    assert (got <= nearest * (1 + 1e-9)).all()
    assert (got >= lowest * (1 - 1e-9)).all()
    assert found.error == pytest.approx(cost(found.integers - scaled, moments).sum())
    assert found.nearest_error == pytest.approx(cost(np.rint(scaled) - scaled, moments).sum())


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_ends_where_no_single_flip_helps(seed):
    scaled, moments = problem(seed, channels=2, features=20)
    damped = moments + np.eye(20) * DAMPING * moments.trace() / 20
    chosen = round_rows(scaled, moments, INT8, sweeps=1000).integers.astype(float)
    got = cost(chosen - scaled, damped)
    for column in range(20):
        flipped = chosen.copy()
        other = np.floor(scaled) + np.ceil(scaled) - chosen
        free = np.abs(scaled[:, column]) < np.abs(scaled).max(axis=1)  # does not set the scale
        flipped[free, column] = other[free, column]
        assert (cost(flipped - scaled, damped) >= got * (1 - 1e-9)).all()


def test_gains_most_of_what_there_is_to_gain():
    shares = []
    for seed in range(20):
        scaled, moments = problem(seed, channels=8)
        found = round_rows(scaled, moments, INT8)
        lowest = cost(best(scaled, moments) - scaled, moments).sum()
        shares.append((found.nearest_error - found.error) / (found.nearest_error - lowest))
    assert np.mean(shares) > 0.7  # a descent that stops at once gains 0, one that is wrong loses


def test_three_sweeps_gain_what_many_do():
    few = many = 0.0
    for seed in range(20):
        scaled, moments = problem(seed, channels=8, features=100)
        few += round_rows(scaled, moments, INT8).error
        many += round_rows(scaled, moments, INT8, sweeps=1000).error
    assert few < 1.1 * many  # and nearest rounding leaves six times as much


def test_uncorrelated_inputs_are_rounded_to_nearest():
    scaled, _ = problem(0)
    found = round_rows(scaled, np.diag(np.arange(1.0, 9.0)), INT8)
    np.testing.assert_array_equal(found.integers, np.rint(scaled))


def test_only_the_two_neighbours_and_only_in_range():
    scaled, moments = problem(1, channels=50)
    scaled[0] = 63.7
    scaled[1] = -64.2
    scaled[2] = 5  # on the grid: nothing to choose
    integers = round_rows(scaled, moments, replace(INT8, largest=64)).integers
    np.testing.assert_array_equal(integers, np.rint(integers))
    assert np.abs(integers).max() <= 64
    inside = np.abs(scaled) <= 64
    assert (np.abs(integers - scaled)[inside] < 1).all()
    assert (integers[2] == 5).all()


def test_the_weight_that_sets_the_scale_stays_at_the_end_of_the_range():
    # As a float32 scale leaves it. Stepping down would pay, as the others err to one side.
    scaled = np.array([[127 - 1e-6, 0.51, 0.51, 0.51]])
    for sign in (1, -1):
        integers = round_rows(sign * scaled, np.ones((4, 4)), INT8).integers
        np.testing.assert_array_equal(integers, [[sign * 127, 0, sign, sign]])


def test_inputs_that_are_never_seen_leave_nearest():
    scaled, _ = problem(2)
    found = round_rows(scaled, np.zeros((8, 8)), INT8)
    np.testing.assert_array_equal(found.integers, np.rint(scaled))


def test_numbers_of_fp8_are_neighbors_of_its_grid_and_gain_over_nearest():
    """Its grid and its nearest number are ml_dtypes' own."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 40)) @ rng.normal(size=(40, 40)) + 1
    scaled = rng.normal(size=(6, 40))
    scaled *= 448 / np.abs(scaled).max(axis=1, keepdims=True)
    found = round_rows(scaled, x.T @ x / 200, FORMATS["float8_e4m3fn"])
    nearest = scaled.astype(ml_dtypes.float8_e4m3fn).astype(np.float64)
    on_grid = found.integers.astype(ml_dtypes.float8_e4m3fn).astype(np.float64)
    np.testing.assert_array_equal(found.integers, on_grid)
    spacing = 2.0 ** (np.floor(np.log2(np.abs(scaled))).clip(-6) - 3)
    assert (np.abs(found.integers - scaled) <= spacing).all()
    changed = found.integers != nearest
    assert 0.05 < changed.mean() < 0.7
    moments = x.T @ x / 200
    assert found.nearest_error == pytest.approx(cost(nearest - scaled, moments).sum())
    assert found.error < 0.7 * found.nearest_error
