"""A ratio of median latencies, with a bootstrap interval over rounds."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

import numpy as np

_LEVEL = 0.95
_RESAMPLES = 10_000


def ratio_of_medians(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Return median(ours) / median(theirs); below 1 we are faster."""
    return statistics.median(ours) / statistics.median(theirs)


def ratio_interval(
    ours: Sequence[float],
    theirs: Sequence[float],
    *,
    level: float = _LEVEL,
    resamples: int = _RESAMPLES,
    seed: int = 0,
) -> tuple[float, float]:
    """Bootstrap an interval of :func:`ratio_of_medians`, by the percentile method.

    Whole rounds are drawn with replacement (Efron and Tibshirani 1993, chapters 8 and 13), so a
    disturbance that slows both sides of a round cancels. Five rounds give a rough interval that
    is somewhat too narrow. It can't extend beyond the observed ratios.

    Args:
        ours: seconds (rounds,).
        theirs: seconds (rounds,), in the same order of rounds.
        level: share of the resampled ratios inside the interval.
        resamples: how many times the rounds are drawn again.
        seed: seed of the random draws.

    Raises:
        ValueError: the sides differ in their number of rounds, or there are fewer than two.
    """
    if len(ours) != len(theirs) or len(ours) < 2:
        raise ValueError(
            f"both sides need the same two rounds or more, not {len(ours)} and {len(theirs)}"
        )
    rounds = len(ours)
    drawn = np.random.default_rng(seed).integers(0, rounds, (resamples, rounds))
    ratios = np.median(np.asarray(ours)[drawn], axis=1) / np.median(
        np.asarray(theirs)[drawn], axis=1
    )
    low, high = np.quantile(ratios, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
