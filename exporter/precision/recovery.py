"""Ways to win back accuracy that INT8 and FP8 cost, one row each, in the order they run in."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import onnx_ir as ir

from calibration.channel_means import channel_means, mean_error
from calibration.gram import Window, second_moments
from calibration.tap import OpenSession
from exporter.config import ExportConfig, RecoveryName
from exporter.passes import Kept, PassReport
from exporter.passes.add_bias import AddBias, outputs_to_measure
from exporter.passes.equalize import Equalize
from exporter.passes.insert_qdq import InsertQdq
from exporter.passes.round_weights import RoundWeights, layers_to_measure
from exporter.passes.schemes import Scheme
from exporter.progress import Progress

if TYPE_CHECKING:
    from exporter.network.runner import Feeds

MOMENTS_BYTES = 512 * 2**20
"""Second moments measured in one pass of the images: more layers take more passes, not memory."""
LAYER_BYTES = 2**30
"""Of one layer: it is left as it is where it has more, from 11,586 weights a channel."""
IMAGES = 128
"""What weights and biases are chosen on: bias correction goes through them once a layer. Both
settle on few; on 512 the shipped networks gain nothing more."""


@dataclass(frozen=True)
class Setting:
    """What methods work with.

    Attributes:
        scheme: how the graph will be quantized.
        ranges: (low, high) of the activations, by tensor.
        reference: the float graph that was calibrated.
        batches: makes an iterator over the first so many calibration images.
        images: how many there are.
        open_float: makes a session of a float graph.
        open_int8: makes one that computes a quantized graph as its engine will.
        progress: told of the images.
    """

    scheme: Scheme
    ranges: Mapping[str, tuple[float, float]]
    reference: bytes
    batches: Callable[[int], Iterator[Feeds]]
    images: int
    open_float: OpenSession
    open_int8: OpenSession
    progress: Progress


@dataclass(frozen=True)
class BeforeCalibration:
    """A method that changes the float graph alone; ranges are measured on the result."""

    run: Callable[[ir.Model], PassReport]


@dataclass(frozen=True)
class WithImages:
    """A method that measures on calibration images, with the ranges known."""

    run: Callable[[ir.Model, Setting], PassReport]


def equalize(model: ir.Model) -> PassReport:
    """Equalize the weights' ranges across layers."""
    equalizing = Equalize()
    equalizing(model)
    return equalizing.report


def round_weights(model: ir.Model, setting: Setting) -> PassReport:
    """Round all layers' weights, as many layers a pass of the images as memory allows."""
    report = PassReport("round_weights")
    images = min(IMAGES, setting.images)
    every = layers_to_measure(model, setting.scheme)
    small = {name: layer for name, layer in every.items() if _bytes(layer[1]) <= LAYER_BYTES}
    for layers in _parts(small):
        moments = second_moments(
            setting.reference,
            layers,
            setting.batches(images),
            images=images,
            open_session=setting.open_float,
            progress=setting.progress,
        )
        rounding = RoundWeights(setting.scheme, moments)
        rounding(model)
        report.applied += rounding.report.applied
    unmeasured = RoundWeights(setting.scheme, {})
    unmeasured(model)
    report.kept = unmeasured.report.kept
    report.kept += [
        Kept(name, f"its second moments would take {_bytes(layer[1]) / 2**20:.0f} MiB")
        for name, layer in every.items()
        if name not in small
    ]
    return report


def correct_biases(model: ir.Model, setting: Setting) -> PassReport:
    """Give each layer's output the mean that it has in float, channel by channel.

    Quantization error has a mean, and layers behind can't average it away. In graph order, as
    each correction changes what the layers behind it read, the mean of (float - quantized) over
    the calibration images is added to the bias (Nagel et al. 2019, arXiv 1906.04721, section 4.2
    and appendix D; Banner et al. 2019, arXiv 1810.05723, section 4.2). Theirs is a plain mean; on
    activations with heavy tails that is the error of few images (see `calibration.power`).
    """
    outputs = outputs_to_measure(model, setting.scheme)
    report = PassReport("add_bias")
    images = min(IMAGES, setting.images)
    expected = channel_means(
        setting.reference,
        dict(outputs.values()),
        setting.batches(images),
        open_session=setting.open_float,
    )
    for done, (name, (tensor, axis)) in enumerate(outputs.items(), start=1):
        quantized = model.clone()
        InsertQdq(setting.scheme, setting.ranges)(quantized)
        # The session computes what leads to the tensor, and nothing behind it.
        got = channel_means(
            quantized,
            {tensor: axis},
            setting.batches(images),
            open_session=setting.open_int8,
        )
        adding = AddBias({name: mean_error(expected[tensor], got[tensor])})
        adding(model)
        report.applied += adding.report.applied
        report.kept += adding.report.kept
        setting.progress("correcting biases", done, len(outputs))
    return report


def _bytes(window: Window) -> int:
    return 8 * window.groups * window.features**2


def _parts(layers: Mapping[str, tuple[str, Window]]) -> Iterator[dict[str, tuple[str, Window]]]:
    """Cut the layers, in order, into parts whose moments fit in memory together."""
    part: dict[str, tuple[str, Window]] = {}
    used = 0
    for name, layer in layers.items():
        size = _bytes(layer[1])
        if part and used + size > MOMENTS_BYTES:
            yield part
            part, used = {}, 0
        part[name] = layer
        used += size
    if part:
        yield part


METHODS: dict[RecoveryName, BeforeCalibration | WithImages] = {
    "equalize": BeforeCalibration(equalize),
    "rounding": WithImages(round_weights),
    "bias": WithImages(correct_biases),
}


def chosen(config: ExportConfig, scheme: Scheme) -> tuple[tuple[RecoveryName, ...], list[str]]:
    """Return the methods to run, and what a reader of the result should know of the choice.

    Where none is asked for, what pays: weights of 7 bits are rounded for their layer's output,
    which halves what INT8 costs there (KL divergence of the classes' probabilities, on both
    shipped networks). With 8 bits no method gains what a test could see.
    """
    if config.recovery is not None:
        return config.recovery, []
    if not scheme.reduce_range:
        return (), []
    if config.calibration is not None and config.data is None:
        return (), ["weights of 7 bits are rounded to nearest: to round them better takes --data"]
    return ("rounding",), []


def before_calibration(
    model: ir.Model, names: Collection[RecoveryName]
) -> dict[RecoveryName, PassReport]:
    """Run the methods, of those named, that change the graph to calibrate."""
    return {
        name: method.run(model)
        for name, method in METHODS.items()
        if name in names and isinstance(method, BeforeCalibration)
    }


def with_images(
    model: ir.Model, names: Collection[RecoveryName], setting: Setting
) -> dict[RecoveryName, PassReport]:
    """Run the methods, of those named, that change it before Q/DQ are inserted."""
    return {
        name: method.run(model, setting)
        for name, method in METHODS.items()
        if name in names and isinstance(method, WithImages)
    }


def measured(names: Collection[RecoveryName]) -> list[RecoveryName]:
    """Those of the named methods that need calibration images."""
    return [name for name, row in METHODS.items() if name in names and isinstance(row, WithImages)]
