"""How far two engines are apart on the same images."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

# Float32 sums over a few thousand products, in another order, differ by about 1e-6 of the
# largest logit; a hundred times that is a wrong graph, not rounding.
TOLERANCE = 1e-4

Logits = npt.NDArray[Any]


@dataclass(frozen=True)
class Agreement:
    """What changed between a reference and a candidate.

    Attributes:
        images: how many were compared.
        label_flips: images whose largest logit is elsewhere.
        max_abs_error: the largest difference of any logit.
        mean_abs_error: the mean difference over all logits.
        max_relative_error: ``max_abs_error`` as a share of the reference's largest logit.
    """

    images: int
    label_flips: int
    max_abs_error: float
    mean_abs_error: float
    max_relative_error: float

    def as_json(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return asdict(self)


def compare(reference: Logits, candidate: Logits) -> Agreement:
    """Compare two arrays of logits, (images, ...) each, in float64."""
    expected, got = reference.astype(np.float64), candidate.astype(np.float64)
    error = np.abs(expected - got)
    largest = float(np.abs(expected).max(initial=0.0))
    worst = float(error.max(initial=0.0))
    if not (np.isfinite(got).all() and np.isfinite(expected).all()):
        worst = float("inf")  # NaN compares as no difference at all, and would pass
    return Agreement(
        images=len(reference),
        label_flips=int((expected.argmax(-1) != got.argmax(-1)).sum()),
        max_abs_error=worst,
        mean_abs_error=float(error.mean()),
        max_relative_error=worst / largest if largest else worst,
    )
