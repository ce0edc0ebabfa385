"""Choose training images to calibrate or judge INT8 on, with a fixed seed and no test images."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

import numpy as np
import numpy.typing as npt

from calibration.images import image_hash
from exporter.data.datasets import Dataset, Pixels
from exporter.errors import WrongUse

_SEED = 0
_CHUNK = 256


def choose_images(
    data: Dataset,
    test: Dataset,
    size: tuple[int, ...],
    most: int,
    *,
    least: int | None = None,
    without: npt.NDArray[np.int64] | None = None,
) -> npt.NDArray[np.int64]:
    """Choose training images that aren't also in the test set.

    A larger choice begins with the images of a smaller one.

    Args:
        data: the training images.
        test: the test images.
        size: height and width at which images are compared.
        most: number of images to choose.
        least: the smallest number that is enough; by default `most`.
        without: indices of images to leave out, together with images of the same content.

    Raises:
        WrongUse: too few are left, for example if training and test images are the same.
    """
    order = np.random.default_rng(_SEED).permutation(len(data))
    known = {image_hash(image) for image in _one_by_one(test, np.arange(len(test)), size)}
    if without is not None:
        order = order[~np.isin(order, without)]
        known.update(image_hash(image) for image in _one_by_one(data, without, size))
    images = zip(order, _one_by_one(data, order, size), strict=True)
    fresh = (index for index, image in images if image_hash(image) not in known)
    chosen = np.fromiter(islice(fresh, most), np.int64)
    wanted = most if least is None else least
    if len(chosen) < wanted:
        what, option = ("hold out", "--held-out-images")
        if without is None:
            what, option = ("calibrate on", "--calibration-images")
        raise WrongUse(
            f"{data.name} has only {len(chosen)} images to {what} that are not test images, "
            f"but {wanted} are needed",
            hint=f"use fewer with {option}, or give separate training and test images: "
            "folder:PATH with train/ and test/ in it, or npz:PATH with x_train and x_test",
        )
    return chosen


def batches(
    data: Dataset, indices: npt.NDArray[np.int64], size: tuple[int, ...], step: int
) -> Iterator[Pixels]:
    """Yield images in batches, so that memory doesn't grow with their number."""
    for start in range(0, len(indices), step):
        yield data.pixels(indices[start : start + step], size)


def whole_batches(count: int, batch: int | None) -> int:
    """Round a count of images up to a multiple of a fixed batch size."""
    return -(-count // (batch or 1)) * (batch or 1)


def _one_by_one(
    data: Dataset, indices: npt.NDArray[np.int64], size: tuple[int, ...]
) -> Iterator[Pixels]:
    for part in batches(data, indices, size, _CHUNK):
        yield from part
