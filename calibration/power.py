"""How large a tensor is in each image: what the image's errors are measured by.

In a network without a norm at its end one image in thirty may have activations thirty times the
others' (measured on a trained ResNeXt). Squared errors summed over images are then that image's
alone, and what lowers them harms all others. An error relative to the image's own power counts
every image alike, as the label does, which no factor on all logits changes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Powers = npt.NDArray[np.float64]


def image_powers(values: npt.NDArray[Any]) -> Powers:
    """Return each image's mean square, float64 (images,), of an array (images, ...)."""
    flat = np.ascontiguousarray(values).reshape(len(values), -1)
    return np.asarray(
        np.einsum("ij,ij->i", flat, flat, dtype=np.float64, casting="safe") / flat.shape[1],
        np.float64,
    )


def alike(powers: Powers) -> Powers:
    """Return weights (images,) that make errors of images relative: 1 / power.

    An image without power has no say, for nothing is relative to it; where none has any, all
    count the same.
    """
    if not powers.any():
        return np.ones_like(powers)
    weights: Powers = np.zeros_like(powers)
    np.divide(1.0, powers, out=weights, where=powers > 0)
    return weights
