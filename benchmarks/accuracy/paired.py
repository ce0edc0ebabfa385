"""Compare two engines on the same images: is one correct more often, and by how much?

Only images that exactly one engine classifies correctly tell the two apart. Comparing the two
accuracies ignores this: on 10,000 images they differ by half a point by chance, while a paired
test can detect 0.1 points.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
import numpy.typing as npt

LEVEL = 0.95

Booleans = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Paired:
    """A candidate compared with a reference.

    Attributes:
        images: how many both classified.
        lost: images that only the reference classifies correctly.
        won: images that only the candidate classifies correctly.
        change_points: the candidate's top-1 minus the reference's, in percentage points.
        interval_points: 95% interval of the change.
        p_value: McNemar's exact test of "equally often right".
    """

    images: int
    lost: int
    won: int
    change_points: float
    interval_points: tuple[float, float]
    p_value: float

    def as_json(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return {**asdict(self), "interval_points": list(self.interval_points)}


def paired(reference: Booleans, candidate: Booleans) -> Paired:
    """Test two engines' correct images against each other.

    Args:
        reference: (images,), whether each is classified correctly.
        candidate: (images,), the same images in the same order.

    Raises:
        ValueError: there are no images, or the numbers of images differ.
    """
    if reference.shape != candidate.shape or reference.ndim != 1 or not len(reference):
        raise ValueError(
            f"both need the same images, at least one: got {reference.shape} and {candidate.shape}"
        )
    images = len(reference)
    lost = int((reference & ~candidate).sum())
    won = int((candidate & ~reference).sum())
    low, high = difference_interval(lost, won, images)
    return Paired(
        images,
        lost,
        won,
        100 * (won - lost) / images,
        (100 * low, 100 * high),
        mcnemar_exact(lost, won),
    )


def mcnemar_exact(lost: int, won: int) -> float:
    """Return the two-sided p-value of McNemar's test, in its exact binomial form.

    If both are correct equally often, each discordant image goes to either side like a fair coin
    (McNemar 1947, Psychometrika 12, 153-157; Agresti, Categorical Data Analysis, 3rd
    edition, 11.1.2). All steps are in integers, with one rounding at the end.

    Args:
        lost: images that only the reference classifies correctly.
        won: images that only the candidate classifies correctly.
    """
    discordant = lost + won
    term = tail = 1  # binomial(discordant, 0)
    for k in range(min(lost, won)):
        term = term * (discordant - k) // (k + 1)
        tail += term
    return min(1.0, 2 * tail / (1 << discordant))


def difference_interval(lost: int, won: int, images: int) -> tuple[float, float]:
    """Return a 95% interval of the difference of two paired proportions, (won - lost) / images.

    This is Wald's interval after adding one image to each discordant count (Bonett and Price
    2012, Journal of Educational and Behavioral Statistics 37, 479-488). It has the promised
    coverage even with a handful of discordant images, and a width above zero with none.

    Args:
        lost: images that only the reference classifies correctly.
        won: images that only the candidate classifies correctly.
        images: number of all images.
    """
    adjusted = images + 2
    down, up = (lost + 1) / adjusted, (won + 1) / adjusted
    change = up - down
    z = NormalDist().inv_cdf((1 + LEVEL) / 2)
    half = z * math.sqrt((up + down - change**2) / adjusted)
    return max(-1.0, change - half), min(1.0, change + half)
