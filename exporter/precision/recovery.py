"""Methods that win back accuracy after INT8 and FP8: a row each, in the order that they run."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import onnx_ir as ir

from calibration.channel_means import channel_means, mean_error
from calibration.gram import Window, second_moments
from calibration.tap import OpenSession
from exporter.config import ExportConfig, RecoveryName
from exporter.data.calibration_images import CalibrationImages, open_session
from exporter.passes import Kept, PassReport
from exporter.passes.add_bias import AddBias, outputs_to_measure
from exporter.passes.equalize import Equalize
from exporter.passes.insert_qdq import InsertQdq
from exporter.passes.round_weights import RoundWeights, layers_to_measure
from exporter.passes.schemes import Scheme
from exporter.precision.trials import Trials
from exporter.progress import Progress

if TYPE_CHECKING:
    from exporter.network.runner import Feeds

MOMENTS_BYTES = 512 * 2**20
"""The most second moments to measure in one pass over the images. More layers take more passes."""
LAYER_BYTES = 2**30
"""A layer with more second moments keeps its weights: from 11,586 weights per channel on."""
IMAGES = 128
"""How many images weights and biases are chosen on. Bias correction runs them once per layer. Both
settle on few images: with 512 the shipped networks gain nothing more."""


@dataclass(frozen=True)
class Setting:
    """The inputs of every method.

    Attributes:
        scheme: how the graph will be quantized.
        ranges: (low, high) of the activations, by tensor.
        reference: the float graph that was calibrated.
        batches: returns an iterator over the first N calibration images.
        images: how many calibration images there are.
        open_float: opens a session for a float graph.
        open_int8: opens a session that computes a quantized graph as its engine will.
        progress: called for each batch of images.
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
    """A method that changes only the float graph. Ranges are measured on the result."""

    run: Callable[[ir.Model], PassReport]


@dataclass(frozen=True)
class WithImages:
    """A method that measures on calibration images and knows the ranges."""

    run: Callable[[ir.Model, Setting], PassReport]


@dataclass(frozen=True)
class Recovered:
    """The result of the methods that measure on images.

    Attributes:
        trials: the graph after them; ``trials.original`` is from before.
        reports: what each method changed.
        images: how many of the first calibration images they chose on.
    """

    trials: Trials
    reports: dict[RecoveryName, PassReport]
    images: int


def equalize(model: ir.Model) -> PassReport:
    """Even out the weights' ranges across layers."""
    equalizing = Equalize()
    equalizing(model)
    return equalizing.report


def round_weights(model: ir.Model, setting: Setting) -> PassReport:
    """Round the weights of all layers, with as many layers per pass as memory allows."""
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
    """Give the output of each layer the mean that it has in float, channel by channel.

    Quantization error has a mean, and later layers can't average it away. For each layer in graph
    order, the mean of (float - quantized) over the calibration images is added to the bias. The
    order matters, because each correction changes what later layers read. (Nagel et al. 2019,
    arXiv 1906.04721, section 4.2 and appendix D; Banner et al. 2019, arXiv 1810.05723, section
    4.2.) They take a plain mean. With heavy tails, that is the error of a few images (see
    `calibration.power`).
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
        # The session computes only what leads to the tensor.
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
    """Split the layers, in order, into parts whose moments fit in memory together."""
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
    """Return the methods to run, with warnings about the choice.

    If the user names none, we take what pays. Weights of 7 bits are rounded for the output of
    their layer: that halves the loss of INT8 on both shipped networks (KL divergence of the
    classes' probabilities). With 8 bits, no method gains anything that a test could see.
    """
    if config.int8.recovery is not None:
        return config.int8.recovery, []
    if not scheme.reduce_range:
        return (), []
    if config.calibration.file is not None and config.data is None:
        return (), ["weights of 7 bits are rounded to nearest: better rounding needs --data"]
    return ("rounding",), []


def recover(
    trials: Trials,
    names: Collection[RecoveryName],
    images: CalibrationImages | None,
    progress: Progress,
) -> Recovered:
    """Run the named methods that measure on images, in place on the graph of ``trials``."""
    if images is None or not measured(names):
        return Recovered(trials, {}, 0)
    # Fused signed kernels saturate on some CPUs; the GPU that the graph is for doesn't saturate.
    as_written = partial(open_session, as_written=True)
    setting = Setting(
        trials.scheme,
        trials.ranges,
        reference=ir.to_proto(trials.model).SerializeToString(),
        batches=lambda limit: map(images.feeds, images.pixels(limit)),
        images=len(images),
        open_float=open_session,
        open_int8=as_written if trials.scheme.symmetric else open_session,
        progress=progress,
    )
    reports = {
        name: method.run(trials.model, setting)
        for name, method in METHODS.items()
        if name in names and isinstance(method, WithImages)
    }
    return Recovered(trials, reports, min(IMAGES, len(images)))


def before_calibration(
    model: ir.Model, names: Collection[RecoveryName]
) -> dict[RecoveryName, PassReport]:
    """Run the named methods that change the graph before it is calibrated."""
    return {
        name: method.run(model)
        for name, method in METHODS.items()
        if name in names and isinstance(method, BeforeCalibration)
    }


def measured(names: Collection[RecoveryName]) -> list[RecoveryName]:
    """Return the named methods that need calibration images."""
    return [name for name, row in METHODS.items() if name in names and isinstance(row, WithImages)]
