"""Measure the second moments of a linear layer's input: its output error depends on them alone.

A layer gives W x for each window x of its input, so changing its weights by dW costs

    sum over x of ||dW x||^2 = tr(dW G dW^T),  G = sum of x x^T

Once G is known, the images are no longer needed. G is as wide as one filter of the weights,
however many images there are. Each window is divided by its image's root mean square, so that
all images count alike (`calibration.power`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from numpy.lib.stride_tricks import sliding_window_view

from calibration.collect import Progress, silent
from calibration.errors import NotFinite
from calibration.power import alike, image_powers
from calibration.tap import Feeds, Model, OpenSession, stream

Matrix = npt.NDArray[np.float64]
Rows = npt.NDArray[np.float32]

STAGE = "second moments"
POSITIONS = 64
"""Windows drawn from each image. Neighboring windows overlap, so more would add little."""
_SEED = 0


@dataclass(frozen=True)
class Window:
    """The input elements that one output of a layer is computed from.

    Attributes:
        features: how many elements, in each group.
        kernel: size along each spatial axis; empty for a dense layer, which reads a whole row.
        strides: distance of window positions, by spatial axis.
        dilations: distance of elements in a window, by spatial axis.
        pads: zeros before each spatial axis, then those after each.
        groups: number of channel groups, each with its own weights.
    """

    features: int
    kernel: tuple[int, ...] = ()
    strides: tuple[int, ...] = ()
    dilations: tuple[int, ...] = ()
    pads: tuple[int, ...] = ()
    groups: int = 1


def windows(x: npt.NDArray[np.floating], window: Window, first_image: int = 0) -> Rows:
    """Cut at most `POSITIONS` windows out of each image.

    A fixed seed and the image's number choose the positions.

    Args:
        x: (images, channels, *spatial), or (..., features) for a dense layer.
        window: the layer's window.
        first_image: number of the first image, so that batches of any size draw the same windows.

    Returns:
        float32 (groups, windows, channels / groups * kernel), in the order of ONNX's weights.
    """
    if not window.kernel:
        return np.asarray(x, np.float32).reshape(1, -1, x.shape[-1])
    rank = len(window.kernel)
    padding = [(0, 0), (0, 0), *zip(window.pads[:rank], window.pads[rank:], strict=True)]
    extents = [
        (size - 1) * dilation + 1
        for size, dilation in zip(window.kernel, window.dilations, strict=True)
    ]
    spatial = tuple(range(2, 2 + rank))
    view = sliding_window_view(np.pad(x, padding), extents, axis=spatial)
    whole, steps = slice(None), (*window.strides, *window.dilations)
    every: tuple[slice, ...] = (whole, whole, *(slice(None, None, step) for step in steps))
    view = view[every]
    sizes = view.shape[2 : 2 + rank]
    drawn = np.stack([_positions(first_image + i, sizes) for i in range(len(x))])
    at: tuple[Any, ...] = (np.arange(len(x))[:, None], whole, *np.unravel_index(drawn, sizes))
    found = view[at]  # images, windows, channels, kernel...
    split = found.reshape(drawn.size, window.groups, -1)
    return np.ascontiguousarray(split.swapaxes(0, 1), np.float32)


def _positions(image: int, sizes: tuple[int, ...]) -> npt.NDArray[np.int64]:
    every = math.prod(sizes)
    if every <= POSITIONS:
        return np.arange(every)
    rng = np.random.default_rng((_SEED, image))
    return np.asarray(rng.choice(every, POSITIONS, replace=False), np.int64)


def second_moments(
    model: Model,
    layers: Mapping[str, tuple[str, Window]],
    batches: Iterable[Feeds],
    *,
    images: int,
    open_session: OpenSession,
    progress: Progress = silent,
) -> dict[str, Matrix]:
    """Measure the second moments of several layers' inputs in one pass of the images.

    Memory holds the results, a batch of activations, and its windows; see `floats_of`.

    Args:
        model: float graph; not changed.
        layers: for each layer's name, the tensor it reads and its window.
        batches: feeds by input name, images along the first axis.
        images: how many there are in all, for the progress.
        open_session: makes a session from a serialized graph.
        progress: called after each batch.

    Returns:
        float64 (groups, n, n) by layer, n = channels / groups * kernel: the mean over windows,
        with each image scaled to a mean square of 1.

    Raises:
        NoData: there was no batch.
        NotFinite: a layer's moments are not finite. The message names the tensor.
    """
    sums: dict[str, Matrix] = {}
    counts = dict.fromkeys(layers, 0)
    tensors = list(dict.fromkeys(tensor for tensor, _ in layers.values()))
    for done, size, values in stream(model, tensors, batches, open_session):
        for name, (tensor, window) in layers.items():
            with np.errstate(over="ignore", invalid="ignore"):  # checked below
                rows = windows(_relative(values[tensor]), window, done)
                sums[name] = sums.get(name, 0) + (rows.swapaxes(1, 2) @ rows).astype(np.float64)
            counts[name] += rows.shape[1]
        progress(STAGE, done + size, images)
    for name, total in sums.items():
        if not np.isfinite(total).all():
            raise NotFinite(f"tensor {layers[name][0]!r} has NaN, infinite or too large values")
    return {name: total / counts[name] for name, total in sums.items()}


def _relative(x: npt.NDArray[np.floating]) -> Rows:
    """Divide each image by its root mean square; leave an image of zeros unchanged."""
    weights = np.sqrt(alike(image_powers(x)))
    return np.asarray(x * weights.reshape(-1, *(1,) * (x.ndim - 1)), np.float32)
