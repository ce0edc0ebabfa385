"""Measure the mean of activations by channel, to find an engine's systematic error."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from calibration.errors import NotFinite
from calibration.power import alike, image_powers
from calibration.tap import Feeds, Model, OpenSession, stream

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class ChannelMeans:
    """The channel means of one tensor on some images.

    Attributes:
        means: float64 (images, channels), over all other axes.
        powers: float64 (images,), mean squares.
    """

    means: Floats
    powers: Floats


def channel_means(
    model: Model,
    axes: Mapping[str, int],
    batches: Iterable[Feeds],
    *,
    open_session: OpenSession,
) -> dict[str, ChannelMeans]:
    """Average tensors over all axes except the image axis and the channel axis.

    Sums are float64, so it does not matter how the images are cut into batches. Memory holds one
    batch of the tensors, and a number for each image and channel.

    Args:
        model: not changed.
        axes: the channel axis by tensor. It can't be the first axis, which counts images.
        batches: feeds by input name, images along the first axis.
        open_session: makes a session of a serialized graph.

    Raises:
        NoData: there was no batch.
        NotFinite: a mean is NaN or infinite. The message names the tensor.
    """
    means: dict[str, list[Floats]] = {name: [] for name in axes}
    powers: dict[str, list[Floats]] = {name: [] for name in axes}
    for _, _, values in stream(model, list(axes), batches, open_session):
        for name, axis in axes.items():
            array = np.moveaxis(values[name], axis, 1)
            means[name].append(array.reshape(*array.shape[:2], -1).mean(axis=2, dtype=np.float64))
            powers[name].append(image_powers(values[name]))
            if not np.isfinite(means[name][-1]).all():
                raise NotFinite(
                    f"tensor {name!r} has NaN or infinite values on the calibration images"
                )
    return {
        name: ChannelMeans(np.concatenate(means[name]), np.concatenate(powers[name]))
        for name in axes
    }


def mean_error(expected: ChannelMeans, got: ChannelMeans) -> Floats:
    """Return what to add to each channel, float64 (channels,): the mean of expected - got.

    It minimizes the squared error of the image means. Each error is relative to the image's power
    in `expected`, so that a few images with large activations don't decide for all.
    """
    weights = alike(expected.powers)
    error: Floats = weights @ (expected.means - got.means) / weights.sum()
    return error
