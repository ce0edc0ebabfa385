"""Check the calibration images: no evaluation images, and enough of every class."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from calibration.errors import NoData, OverlapsEvaluation, WrongRequest

SHOWN = 5  # indices that a message lists
POOR = 0.5  # of an even share; a class with fewer images is poorly covered


def image_hash(image: npt.NDArray[Any]) -> bytes:
    """Return a 16-byte BLAKE2b of an image's dtype, shape and content."""
    head = f"{image.dtype.str}{image.shape}".encode()
    return hashlib.blake2b(head + np.ascontiguousarray(image).tobytes(), digest_size=16).digest()


def overlap(
    calibration_images: Iterable[npt.NDArray[Any]], evaluation_images: Iterable[npt.NDArray[Any]]
) -> list[int]:
    """Return which calibration images are, byte for byte, also evaluation images.

    Compare images of the same stage: both as stored, or both with the same preprocessing.

    Args:
        calibration_images: one array per image, or one array with images along its first axis.
        evaluation_images: the same; read once, 16 bytes kept of each.

    Returns:
        Indices into ``calibration_images``, ascending; dropping them removes the overlap.
    """
    evaluation = {image_hash(image) for image in evaluation_images}
    return [i for i, image in enumerate(calibration_images) if image_hash(image) in evaluation]


def refuse_overlap(
    calibration_images: Iterable[npt.NDArray[Any]], evaluation_images: Iterable[npt.NDArray[Any]]
) -> None:
    """Refuse to calibrate on evaluation images.

    Raises:
        OverlapsEvaluation: some images are in both sets. The message lists the first of them.
    """
    shared = overlap(calibration_images, evaluation_images)
    if shared:
        first = ", ".join(map(str, shared[:SHOWN])) + (", ..." if len(shared) > SHOWN else "")
        raise OverlapsEvaluation(
            f"{len(shared)} calibration images are also evaluation images: {first}",
            hint="calibrate on training images that are not in the evaluation set",
        )


def class_balance(labels: npt.ArrayLike, classes: int) -> str | None:
    """Return a one-line warning if some classes have too few calibration images, or None.

    A class has too few images if it has less than half of an even share.

    Args:
        labels: integers of shape (images,), 0 to ``classes`` - 1.
        classes: how many there are.

    Raises:
        NoData: there are no labels.
        WrongRequest: a label is not a class.
    """
    array = np.asarray(labels)
    if not array.size:
        raise NoData("there are no labels, so the class balance can't be checked")
    if array.min() < 0 or array.max() >= classes:
        raise WrongRequest(
            f"labels go from {array.min()} to {array.max()}, but classes from 0 to {classes - 1}"
        )
    counts = np.bincount(array, minlength=classes)
    poor = np.flatnonzero(counts < POOR * array.size / classes)
    if not poor.size:
        return None
    listed = ", ".join(f"class {i}: {counts[i]}" for i in poor[:SHOWN])
    more = f" and {poor.size - SHOWN} more" if poor.size > SHOWN else ""
    return f"poor class balance in {array.size} calibration images ({listed}{more})"
