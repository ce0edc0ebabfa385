"""Training images to judge INT8 or FP8 on. None is used for calibration or is a test image."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from exporter.data import datasets
from exporter.data.feeds import image_size, in_layout, network_input, training_data
from exporter.data.training_images import choose_images, whole_batches
from exporter.errors import WrongUse
from exporter.progress import Progress

if TYPE_CHECKING:
    from calibration.params import Params
    from exporter.config import ExportConfig, Layout
    from exporter.network.runner import Feeds
    from exporter.network.sources import Source

_BATCH = 32


@dataclass(frozen=True)
class HeldOut:
    """Images as network inputs, computed again on every pass.

    Attributes:
        source: the network.
        pixels: (images, height, width, channels) uint8.
        labels: (images,).
        layout: layout of the graph's input.
        batch: the graph's fixed batch size, which divides the number of images; None: any.
    """

    source: Source
    pixels: datasets.Pixels
    labels: datasets.Labels
    layout: Layout
    batch: int | None

    def __len__(self) -> int:
        """Count the images."""
        return len(self.labels)

    def first(self, count: int) -> HeldOut:
        """Return the first images, rounded up to whole batches."""
        count = whole_batches(count, self.batch)
        return replace(self, pixels=self.pixels[:count], labels=self.labels[:count])

    def feeds(self) -> Iterator[Feeds]:
        """Yield batches of network inputs."""
        step = self.batch or _BATCH
        for start in range(0, len(self), step):
            pixels = self.pixels[start : start + step]
            yield in_layout(network_input(self.source, pixels), self.layout)


def hold_out(
    source: Source, config: ExportConfig, params: Params, progress: Progress, *, used: int = 0
) -> tuple[HeldOut, list[str]]:
    """Choose ``config.int8.held_out_images`` training images, always the same ones.

    Args:
        source: the network.
        config: ``data``, ``batch`` and ``layout`` matter here too.
        params: the calibration, whose images are left out.
        progress: called during a download.
        used: number of first images that were used for other choices, if more than for the
            calibration.

    Returns:
        The images, and warnings for readers of results on them.

    Raises:
        WrongUse: too few images are left, or the network isn't a classifier for them.
    """
    classes = _classes(source)
    spec = training_data(source, config)
    data = datasets.load(spec, "train", progress)
    test = datasets.load(spec, "test", progress)
    size = image_size(source, data)
    batch = source.batch or config.batch.fixed
    calibrated = choose_images(data, test, size, params.images)
    warnings = []
    if hashlib.sha256(data.pixels(calibrated, size).tobytes()).hexdigest() != params.data:
        warnings.append(
            "the calibration used other images, so the held-out images may be among them"
        )
    count = whole_batches(config.int8.held_out_images, batch)
    if used > params.images:
        calibrated = choose_images(data, test, size, used)
    chosen = choose_images(data, test, size, count, without=calibrated)
    labels = data.labels[chosen]
    if not 0 <= labels.min() <= labels.max() < classes:
        raise WrongUse(
            f"{data.name} has labels {labels.min()} to {labels.max()}, "
            f"but {source.name} has the {classes} classes 0 to {classes - 1}"
        )
    return HeldOut(source, data.pixels(chosen, size), labels, config.layout, batch), warnings


def _classes(source: Source) -> int:
    outputs = source.outputs
    classes = outputs[0].shape[-1] if len(outputs) == 1 and len(outputs[0].shape) == 2 else None
    if classes is None:
        raise WrongUse(
            f"{source.name} is not a classifier with one output (batch, classes): {outputs}",
            hint="--max-drop and exporter sensitivity need one, as they use labels",
        )
    return classes
