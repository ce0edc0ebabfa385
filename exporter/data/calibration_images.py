"""Choose images to measure INT8, FP8 and FP16 on, and observe a graph's tensors on them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from calibration.collect import FIRST_SNAPSHOT, Collected, Options, collect
from calibration.formats import Kind
from exporter.data import datasets
from exporter.data.feeds import image_size, in_layout, network_input, training_data
from exporter.data.training_images import batches, choose_images

if TYPE_CHECKING:
    import numpy.typing as npt
    import onnx_ir as ir

    from exporter.config import ExportConfig
    from exporter.network.runner import Feeds
    from exporter.network.sources import Source
    from exporter.progress import Progress

BATCH = 16
AUTO_TOLERANCE = 0.05
"""``--calibration-images auto`` stops below this. A step 5% too wide adds 0.4 dB of noise."""

AUTO_MOST = 8192  # images: FIRST_SNAPSHOT, doubled nine times


@dataclass(frozen=True)
class CalibrationImages:
    """Training images as network inputs. You can iterate over them any number of times.

    Attributes:
        data: the training set.
        chosen: indices of the images, in order.
        size: height and width.
        batch: the graph's fixed batch size; None: any.
        source: the network.
        config: only ``layout`` and ``calibration_images`` matter here.
    """

    data: datasets.Dataset
    chosen: npt.NDArray[np.int64]
    size: tuple[int, ...]
    batch: int | None
    source: Source
    config: ExportConfig

    def __len__(self) -> int:
        """Count the images."""
        return len(self.chosen)

    @property
    def labels(self) -> datasets.Labels:
        """The label of each image."""
        return self.data.labels[self.chosen]

    def pixels(self, limit: int | None = None) -> Iterator[datasets.Pixels]:
        """Yield the first `limit` images in batches."""
        return batches(self.data, self.chosen[:limit], self.size, self.batch or BATCH)

    def feeds(self, pixels: datasets.Pixels) -> Feeds:
        """Turn a batch into the graph's inputs. Repeat images to fill a batch of a fixed size."""
        whole = np.resize(pixels, (self.batch or len(pixels), *pixels.shape[1:]))
        return in_layout(network_input(self.source, whole), self.config.layout)


def choose(source: Source, config: ExportConfig, progress: Progress) -> CalibrationImages:
    """Choose ``calibration_images`` training images, always the same ones, without test images.

    Raises:
        WrongUse: too few images are left, there is no data, or the network doesn't take images.
    """
    spec = training_data(source, config)
    data = datasets.load(spec, "train", progress)
    test = datasets.load(spec, "test", progress)
    size = image_size(source, data)
    asked = config.calibration.images
    most, least = (AUTO_MOST, FIRST_SNAPSHOT) if asked == "auto" else (asked, asked)
    chosen = choose_images(data, test, size, most, least=least)
    return CalibrationImages(data, chosen, size, source.batch or config.batch.fixed, source, config)


def observe(
    model: ir.Model,
    images: CalibrationImages,
    tensors: Sequence[str],
    method: str,
    progress: Progress,
    kind: Kind = "symmetric",
) -> tuple[Collected, str]:
    """Run the images through a graph, and return the observed tensors and the images' hash.

    Raises:
        CalibrationError: a tensor isn't finite, or has no values.
    """
    pixels_hash = hashlib.sha256()

    def feeds() -> Iterator[Feeds]:
        for pixels in images.pixels():
            pixels_hash.update(pixels.tobytes())
            yield images.feeds(pixels)

    found = collect(
        model,
        tensors,
        feeds(),
        images=len(images),
        open_session=open_session,
        options=Options(
            method=method,
            kind=kind,
            tolerance=AUTO_TOLERANCE if images.config.calibration.images == "auto" else None,
        ),
        labels=images.labels,
        progress=progress,
    )
    return found, pixels_hash.hexdigest()


def open_session(graph: bytes, *, as_written: bool = False) -> Any:
    """Create an onnxruntime session that leaves CPU time to the code that counts the values."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if as_written:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    # Spinning threads would occupy the cores that count the values.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
