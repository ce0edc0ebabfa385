"""Make a network's inputs: images in its format, or random ones."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from exporter.data import datasets
from exporter.errors import WrongUse
from exporter.models.preprocessing import GIVEN, RGB_ONLY, preprocess
from exporter.network.sizes import other_sizes, usual_shape
from exporter.progress import Progress

if TYPE_CHECKING:
    from exporter.config import ExportConfig, Given, Layout
    from exporter.network.runner import Feeds
    from exporter.network.sources import Source


def check_feeds(
    config: ExportConfig, source: Source, progress: Progress
) -> tuple[list[Feeds], str]:
    """Choose the inputs for the comparison with Keras: real images if there are any.

    Returns:
        Batches of the graph's size, with ``check_images`` images in total, and the name of the
        data.
    """
    batch = source.batch or config.batch.fixed or config.check_images
    rounds = math.ceil(config.check_images / batch)
    spec = config.data or default_data(source)
    if spec is None:
        rng = np.random.default_rng(0)
        drawn = [random_inputs(source, batch, rng) for _ in range(rounds)]
        return drawn, "random inputs (no --data was given)"
    if source.preprocessing is None:
        raise WrongUse(
            f"the preprocessing of {source.name} is unknown",
            hint="give it with --preprocess {unit,raw,signed,caffe,torch}",
        )
    data = datasets.load(spec, "test", progress)
    size = image_size(source, data)
    chosen = np.arange(rounds * batch) % len(data)  # start again at the end of a small data set
    feeds = [network_input(source, data.pixels(part, size)) for part in chosen.reshape(-1, batch)]
    return feeds, data.name


def network_input(source: Source, pixels: datasets.Pixels) -> Feeds:
    """Preprocess images, and convert them to the type of the network's input.

    Raises:
        WrongUse: the network takes integers, but its preprocessing makes fractions.
    """
    assert source.preprocessing is not None
    port = source.inputs[0]
    if source.preprocessing == GIVEN:
        return {port.name: pixels.astype(port.dtype, copy=False)}
    whole = np.issubdtype(np.dtype(port.dtype), np.integer)
    if whole and source.preprocessing != "raw":
        raise WrongUse(
            f"{source.name} takes {port.dtype}, but preprocessing "
            f"{source.preprocessing!r} makes fractions",
            hint="use --preprocess raw",
        )
    return {port.name: preprocess(source.preprocessing, pixels).astype(port.dtype, copy=False)}


def first_images(feeds: Feeds, count: int = 16) -> Feeds:
    """Return the first images of a batch."""
    return {name: x[:count] for name, x in feeds.items()}


def other_feeds(source: Source, batch: int) -> list[Feeds]:
    """Draw inputs of the smallest and the largest size, if sizes are open."""
    rng = np.random.default_rng(1)
    return [random_inputs(source, batch, rng, sizes) for sizes in other_sizes(source)]


def in_layout(feeds: Feeds, layout: Layout) -> Feeds:
    """Transpose NHWC images if the graph takes NCHW."""
    if layout == "nhwc":
        return feeds
    return {
        name: np.ascontiguousarray(x.transpose(0, 3, 1, 2)) if x.ndim == 4 else x
        for name, x in feeds.items()
    }


def image_size(source: Source, data: datasets.Dataset) -> tuple[int, ...]:
    """Return the height and width that the network takes; empty if the inputs are given.

    Raises:
        WrongUse: its input isn't one image with the data's channels, or given inputs have another
            shape than its input.
    """
    if source.preprocessing == GIVEN:
        _check_given(source, data)
        return ()
    size, channels = fixed_size(source), source.inputs[0].shape[-1]
    if channels != data.channels:
        raise WrongUse(
            f"{source.name} takes images with {channels} channel(s), but {data.name} has "
            f"{data.channels}",
            hint="choose other data with --data",
        )
    return size


def _check_given(source: Source, data: datasets.Dataset) -> None:
    (port, *others), given = source.inputs, getattr(data, "inputs", None)
    if given is None:
        raise WrongUse(
            f"the inputs of {source.name} were prepared in Python, so {data.name} doesn't fit it",
            hint="give prepared inputs in Python again, or export it with --preprocess",
        )
    wanted = usual_shape(source, port)
    if others or given.shape[1:] != wanted:
        raise WrongUse(
            f"{source.name} takes samples of {wanted}, but those of the data are {given.shape[1:]}"
        )


def fixed_size(source: Source) -> tuple[int, int]:
    """Return the height and width of the network's images (the usual ones), with any channels.

    Raises:
        WrongUse: its input isn't one image.
    """
    if len(source.inputs) != 1 or len(source.inputs[0].shape) != 4:
        raise WrongUse(f"{source.name} doesn't take one image: {source.inputs}")
    height, width, _ = usual_shape(source, source.inputs[0])
    return height, width


def random_inputs(
    source: Source, batch: int, rng: np.random.Generator, sizes: tuple[int, ...] | None = None
) -> Feeds:
    """Draw inputs for every port, in the network's own range.

    Images are smooth pictures with some noise, preprocessed as the network wants (from 0 to 1 if
    nobody knows). Tokens are any that the network has. Sequences that a Masking reads end anywhere.
    Other whole numbers are 0 to 9, and other floats 0 to 1.

    Args:
        source: the network.
        batch: how many.
        rng: the source of chance.
        sizes: of open dimensions; None for the usual ones.
    """
    feeds = {}
    for port in source.inputs:
        shape = (batch, *usual_shape(source, port, sizes))
        whole = np.issubdtype(np.dtype(port.dtype), np.integer)
        drawn: npt.NDArray[Any]
        if port.meaning.tokens is not None:
            drawn = rng.integers(0, port.meaning.tokens, shape)
        elif len(shape) == 4 and (not whole or port.dtype == "uint8"):
            drawn = _preprocessed(source.preprocessing, pictures(shape, rng), whole=whole)
        else:
            drawn = rng.integers(0, 10, shape) if whole else rng.random(shape)
        if port.meaning.masked is not None:
            ends = rng.integers(1, shape[1] + 1, batch)
            drawn[np.arange(shape[1]) >= ends[:, None]] = port.meaning.masked
        feeds[port.name] = drawn.astype(port.dtype)
    return feeds


def pictures(shape: tuple[int, ...], rng: np.random.Generator) -> datasets.Pixels:
    """Draw pictures (n, height, width, channels): a few large patches, and noise on top.

    White noise alone looks the same everywhere, so a network says the same about all of it.
    """
    count, height, width, channels = shape
    patches = rng.uniform(0, 255, (count, 4, 4, channels))
    rows, columns = (np.arange(size) * 4 // size for size in (height, width))
    drawn = patches[:, rows][:, :, columns] + rng.normal(0, 20, shape)
    return np.asarray(drawn.clip(0, 255), np.uint8)


def _preprocessed(name: str | None, pixels: datasets.Pixels, *, whole: bool) -> npt.NDArray[Any]:
    rgb_only = name in RGB_ONLY and pixels.shape[-1] != 3
    return pixels if whole else preprocess("unit" if name is None or rgb_only else name, pixels)


def training_data(source: Source, config: ExportConfig) -> str | Given:
    """Return the data whose training images the network is measured on.

    Raises:
        WrongUse: the user gave no data, and the weights aren't the zoo's own.
    """
    if config.data is not None:
        return config.data
    if not source.is_ours:
        raise WrongUse(
            f"{source.name} needs training images to be measured on",
            hint="give images that it was trained on: --data folder:PATH, with train/ and test/ in "
            "PATH, each with one folder per class",
        )
    return "fashion-mnist"


def default_data(source: Source) -> str | None:
    """Return Fashion-MNIST if it fits the network's input, otherwise None."""
    shape = source.inputs[0].shape
    fits = len(source.inputs) == 1 and len(shape) == 4 and shape[-1] == 1
    return "fashion-mnist" if fits and source.preprocessing is not None else None
