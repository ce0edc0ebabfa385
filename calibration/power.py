"""Measure a tensor's power in each image, so that errors can be relative to it.

If a network has no norm at its end, one image in thirty may have activations thirty times as
large as the others (measured on a trained ResNeXt). That image alone then makes up the squared
error summed over images, and a range that lowers it harms all others. Errors relative to the
image's own power count every image alike. So does the label: scaling all logits doesn't change it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Powers = npt.NDArray[np.float64]


def image_powers(values: npt.NDArray[Any]) -> Powers:
    """Return the mean square of each image of an array (images, ...), as float64 (images,)."""
    flat = np.ascontiguousarray(values).reshape(len(values), -1)
    return np.asarray(
        np.einsum("ij,ij->i", flat, flat, dtype=np.float64, casting="safe") / flat.shape[1],
        np.float64,
    )


def alike(powers: Powers) -> Powers:
    """Return weights (images,) that make errors of images relative: 1 / power.

    An image with power 0 gets weight 0. If all images have power 0, all get weight 1.
    """
    if not powers.any():
        return np.ones_like(powers)
    weights: Powers = np.zeros_like(powers)
    np.divide(1.0, powers, out=weights, where=powers > 0)
    return weights
