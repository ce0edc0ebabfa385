"""The interval of a ratio, against all resamples and against its normal limit."""

from __future__ import annotations

from itertools import product
from statistics import median

import numpy as np
import pytest

from benchmarks.latency.bootstrap import ratio_interval, ratio_of_medians

OURS = [2.0, 2.3, 1.9, 2.8, 2.1]
KERAS = [9.0, 9.9, 8.1, 13.0, 9.4]


def exact_interval(ours: list[float], keras: list[float], level: float) -> tuple[float, float]:
    """Every way to draw the rounds with replacement, which are all equally likely."""
    ratios = [
        median(ours[i] for i in drawn) / median(keras[i] for i in drawn)
        for drawn in product(range(len(ours)), repeat=len(ours))
    ]
    low, high = np.quantile(ratios, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


@pytest.mark.parametrize("level", [0.5, 0.8, 0.95])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_interval_is_that_of_all_resamples(level: float, seed: int) -> None:
    got = ratio_interval(OURS, KERAS, level=level, seed=seed)
    # These ratios take few values, none with its cumulative share near a bound's: 10,000 draws
    # miss a share by about 0.002, so they find the very values.
    assert got == pytest.approx(exact_interval(OURS, KERAS, level), rel=1e-12)


def test_interval_of_many_rounds_is_that_of_the_normal_limit() -> None:
    # The median of n draws of log-normal seconds has standard error sigma * sqrt(pi / 2n) in
    # the logarithm (Serfling 1980, 2.3.3); independent sides add in squares.
    sigma, rounds = 0.05, 2000
    noise = np.random.default_rng(3).normal(0, sigma, (2, rounds))
    ours, keras = 2 * np.exp(noise[0]), 8 * np.exp(noise[1])
    low, high = ratio_interval(list(ours), list(keras), resamples=2000)
    half = 1.96 * sigma * np.sqrt(2 * np.pi / (2 * rounds))
    # The bootstrap knows the density at the median only to about n ** -0.25, 15% here.
    assert np.log(high / low) == pytest.approx(2 * half, rel=0.3)
    assert low < 0.25 < high


def test_what_slows_a_whole_round_cancels() -> None:
    assert ratio_interval([3 * x for x in KERAS], KERAS) == pytest.approx((3, 3), rel=1e-12)


def test_order_of_the_sides() -> None:
    assert ratio_of_medians([1, 2, 30], [4, 4, 4]) == 0.5
    low, high = ratio_interval(OURS, KERAS)
    assert low < ratio_of_medians(OURS, KERAS) < high < 1


@pytest.mark.parametrize(("ours", "keras"), [([1.0], [2.0]), ([], []), ([1.0, 2.0], [1.0])])
def test_no_interval_without_pairs_of_rounds(ours: list[float], keras: list[float]) -> None:
    with pytest.raises(ValueError, match="two rounds or more"):
        ratio_interval(ours, keras)
