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

    Whole rounds are drawn with replacement (Efron and Tibshirani 1993, chapters 8 and 13), so
    what slows both sides of a round cancels. Five rounds make a rough interval, somewhat too
    narrow; it can't reach beyond the ratios that were seen.

    Args:
        ours: seconds (rounds,).
        theirs: seconds (rounds,), in the same order of rounds.
        level: share of the resampled ratios inside.
        resamples: how many times the rounds are drawn anew.
        seed: of the drawing.

    Raises:
        ValueError: the rounds do not pair up, or there are fewer than two.
    """
    if len(ours) != len(theirs) or len(ours) < 2:
        raise ValueError(f"needs two rounds or more on both sides: {len(ours)} and {len(theirs)}")
    rounds = len(ours)
    drawn = np.random.default_rng(seed).integers(0, rounds, (resamples, rounds))
    ratios = np.median(np.asarray(ours)[drawn], axis=1) / np.median(
        np.asarray(theirs)[drawn], axis=1
    )
    low, high = np.quantile(ratios, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
