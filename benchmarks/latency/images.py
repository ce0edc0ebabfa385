"""Read the images that engines are timed on."""

from __future__ import annotations

from typing import Any

import numpy as np

from exporter.artifact.folder import Artifact
from exporter.config import Given
from exporter.data import datasets
from exporter.errors import WrongUse
from exporter.models.preprocessing import GIVEN, preprocess
from exporter.progress import Progress

NOISE = "uniform noise"
_IMAGES = 64
_STEPS = 16  # of a sequence of open length


def read_images(
    one: Artifact, spec: str | Given | None, least: int, progress: Progress
) -> np.ndarray[Any, Any]:
    """Read test images, preprocessed for the network.

    Args:
        one: the artifact, whose passport has the preprocessing.
        spec: as in :func:`exporter.data.datasets.load`; None or :data:`NOISE` for noise.
        least: the largest batch.
        progress: called during a download.

    Returns:
        (n, height, width, channels) float32, n at least the largest batch.

    Raises:
        WrongUse: the artifact's passport has no preprocessing, or its images have other channels.
    """
    count = max(_IMAGES, least)
    if spec is None or spec == NOISE:
        return _noise(one, count)
    recorded = one.passport["preprocessing"]
    if recorded is None:
        raise WrongUse(
            f"the preprocessing of {one.path} is unknown",
            hint="export it again with --preprocess",
        )
    data = datasets.load(spec, "test", progress)
    if recorded["name"] == GIVEN:
        return np.asarray(data.pixels(np.arange(count) % len(data), ()), np.float32)
    size = (recorded["resize"]["height"], recorded["resize"]["width"])
    shape = one.passport["graph"]["inputs"][0]["shape"]
    channels = shape[1 if one.passport["layout"] == "nchw" else -1]
    if channels != data.channels:
        raise WrongUse(
            f"{one.path} takes images with {channels} channel(s), "
            f"but those of {data.name} have {data.channels}",
            hint="choose other images with --data",
        )
    return preprocess(recorded["name"], data.pixels(np.arange(count) % len(data), size))


def _noise(one: Artifact, count: int) -> np.ndarray[Any, Any]:
    """Draw random images in [0, 1) in the network's shape; only the time they take matters.

    Open sizes are the usual ones.
    """
    usual = iter(one.input_size.usual if one.input_size else ())
    sizes = one.passport["graph"]["inputs"][0]["shape"][1:]
    shape = [size if isinstance(size, int) else next(usual, _STEPS) for size in sizes]
    if one.passport["layout"] == "nchw" and len(shape) == 3:
        shape = [*shape[1:], shape[0]]
    return np.random.default_rng(0).random((count, *shape), np.float32)
