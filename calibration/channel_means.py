"""Means of activations by channel: what an engine's systematic error is measured with."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import numpy.typing as npt

from calibration.errors import NotFinite
from calibration.tap import Feeds, Model, OpenSession, stream


def channel_means(
    model: Model,
    axes: Mapping[str, int],
    batches: Iterable[Feeds],
    *,
    open_session: OpenSession,
) -> dict[str, npt.NDArray[np.float64]]:
    """Average tensors over all axes but that of their channels, over all images.

    Sums are float64, so neither the order of the images nor how they are cut into batches matters
    beyond its rounding. Memory holds one batch of the tensors.

    Args:
        model: left as it is.
        axes: the channels' axis by tensor.
        batches: feeds by input name, images along the first axis.
        open_session: makes a session of a serialised graph.

    Returns:
        float64 (channels,) by tensor.

    Raises:
        NoData: no batch came.
        NotFinite: a mean is NaN or infinite; names the tensor.
    """
    sums: dict[str, npt.NDArray[np.float64]] = {}
    counts = dict.fromkeys(axes, 0)
    for _, _, values in stream(model, list(axes), batches, open_session):
        for name, axis in axes.items():
            array = np.moveaxis(values[name], axis, 0)
            total = array.reshape(len(array), -1).sum(axis=1, dtype=np.float64)
            sums[name] = sums.get(name, 0) + total
            counts[name] += array.size // len(array)
    for name, total in sums.items():
        if not np.isfinite(total).all():
            raise NotFinite(f"tensor {name!r} is not finite on the calibration images")
    return {name: total / counts[name] for name, total in sums.items()}
