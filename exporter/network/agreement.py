"""Compare the logits of two engines on the same images."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

# If float32 sums of a few thousand products are computed in another order, they differ by about
# 1e-6 of the largest logit. A hundred times that is a wrong graph, not rounding.
TOLERANCE = 1e-4

Logits = npt.NDArray[Any]


@dataclass(frozen=True)
class Agreement:
    """The differences between a reference and a candidate.

    Attributes:
        images: number of compared images.
        label_flips: number of images for which another class has the largest logit.
        max_abs_error: largest absolute difference of any logit.
        mean_abs_error: mean absolute difference over all logits.
        max_relative_error: ``max_abs_error`` divided by the reference's largest absolute logit.
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
        worst = float("inf")  # a comparison with NaN would show no difference, and pass
    return Agreement(
        images=len(reference),
        label_flips=int((expected.argmax(-1) != got.argmax(-1)).sum()),
        max_abs_error=worst,
        mean_abs_error=float(error.mean()),
        max_relative_error=worst / largest if largest else worst,
    )
