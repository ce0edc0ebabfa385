"""The way through, top to bottom: network, graph, passes, proof, target, artefact."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from exporter import artifact, datasets, sources, targets
from exporter.agreement import TOLERANCE, Agreement, compare
from exporter.artifact import MODEL, Artifact
from exporter.config import ExportConfig, Layout
from exporter.errors import ConversionError, WrongUse
from exporter.preprocessing import preprocess
from exporter.progress import Progress, silent
from exporter.sources import Source

if TYPE_CHECKING:
    import onnx_ir as ir

    from exporter.passes import PassReport
    from exporter.runner import Feeds

_STEPS = 6


def export(config: ExportConfig, progress: Progress = silent) -> Artifact:
    """Take a network to an artefact, or fail and leave nothing behind.

    Raises:
        WrongUse: the request can't be met as it is.
        ConversionError: an op does not convert, or the graph is not the same network.
        Missing: the target's library is not installed.
    """
    target = targets.lookup(config.target)
    target.check_precision(config.precision)
    target.check_batch(config.batch)
    compiler = target.load()
    artifact.check_free(config.output, force=config.force)

    def step(done: int, what: str) -> None:
        progress("export", done, _STEPS, what)

    step(0, "load the network")
    source = sources.load(
        config.model,
        weights=config.weights,
        preprocessing=config.preprocess,
        unsafe=config.unsafe,
    )
    feeds, compared_on = _check_feeds(config, source, progress)

    from exporter import frontend, passport

    step(1, "convert to ONNX")
    model = frontend.to_onnx(source, config.batch.fixed)
    step(2, "fold batch norm")
    reports = run_passes(model, config.layout)
    step(3, "check the graph")
    data = checked_bytes(model)
    step(4, "compare with Keras")
    agreement = prove_equal(source, data, feeds, config.layout)
    step(5, f"compile for {config.target}")
    with artifact.writing(config.output, force=config.force) as folder:
        (folder / MODEL).write_bytes(data)
        compiled = compiler.compile(folder)
        check = {"against": "keras", "data": compared_on, **agreement.as_json()}
        fields = passport.describe_export(config, source, model, reports, check)
        sealed = artifact.seal(folder, {**fields, config.target: compiled})
    step(_STEPS, "done")
    return Artifact(config.output, sealed)


def run_passes(model: ir.Model, layout: Layout) -> list[PassReport]:
    """Apply the passes in their order; each needs what the ones before it did."""
    from onnx_ir.passes import common

    from exporter.passes.fold_batch_norm import FoldBatchNorm
    from exporter.passes.fold_constants import FoldConstants
    from exporter.passes.nchw_inputs import NchwInputs
    from exporter.passes.sink_transposes import SinkTransposes

    common.IdentityEliminationPass()(model)
    constants, transposes, batch_norms = FoldConstants(), SinkTransposes(), FoldBatchNorm()
    constants(model)  # batch norm's scale and shift become constants
    reports = [constants.report]
    if layout == "nchw":
        inputs = NchwInputs()
        inputs(model)
        reports.append(inputs.report)
    transposes(model)  # nothing stands between a convolution and its batch norm any more
    batch_norms(model)
    common.RemoveUnusedNodesPass()(model)
    common.RemoveUnusedOpsetsPass()(model)
    return [*reports, transposes.report, batch_norms.report, batch_norms.report_bias]


def checked_bytes(model: ir.Model) -> bytes:
    """Serialise a graph once onnx's full check, shape inference included, has passed it.

    Raises:
        ConversionError: the check refuses it; a defect of ours, never written to disk.
    """
    import onnx
    import onnx_ir as ir

    proto = ir.to_proto(model)
    try:
        onnx.checker.check_model(proto, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ConversionError(f"the converted graph is not valid ONNX: {error}") from error
    try:
        data: bytes = proto.SerializeToString()
    except Exception as error:  # protobuf's own type, which differs between its releases
        raise ConversionError(f"the graph is over protobuf's 2 GB: {error}") from error
    return data


def prove_equal(source: Source, data: bytes, batches: list[Feeds], layout: Layout) -> Agreement:
    """Run the graph and the original on the same batches; return the output that is worst.

    Raises:
        ConversionError: they differ by more than rounding explains.
    """
    from exporter.runner import KerasRunner
    from exporter.targets.ort import OrtRunner

    with KerasRunner(source) as keras, OrtRunner(data) as runtime:
        expected = [keras.infer(feeds) for feeds in batches]
        got = [runtime.infer(in_layout(feeds, layout)) for feeds in batches]
    worst = max(
        (
            compare(
                np.concatenate([batch[port.name] for batch in expected]),
                np.concatenate([batch[port.name] for batch in got]),
            )
            for port in source.outputs
        ),
        key=lambda agreement: agreement.max_relative_error,
    )
    if not worst.max_relative_error <= TOLERANCE:
        raise ConversionError(
            f"the graph is not the same network as {source.name}: its logits are off by "
            f"{worst.max_relative_error:.2e} of the largest, where {TOLERANCE:.0e} is allowed",
            hint="please report this with the model; nothing was written",
        )
    return worst


def in_layout(feeds: Feeds, layout: Layout) -> Feeds:
    """Transpose NHWC images where the graph takes NCHW."""
    if layout == "nhwc":
        return feeds
    return {
        name: np.ascontiguousarray(x.transpose(0, 3, 1, 2)) if x.ndim == 4 else x
        for name, x in feeds.items()
    }


def _check_feeds(
    config: ExportConfig, source: Source, progress: Progress
) -> tuple[list[Feeds], str]:
    """Choose what to compare on, and name it: real images wherever there are any.

    Returns:
        Batches of the size that the graph takes, ``check_images`` images in all, and the
        name of the data.
    """
    batch = source.batch or config.batch.fixed or config.check_images
    rounds = math.ceil(config.check_images / batch)
    spec = config.data or _default_data(source)
    if spec is None:
        rng = np.random.default_rng(0)
        noise = [_noise(source, batch, rng) for _ in range(rounds)]
        return noise, "uniform noise (no --data was given)"
    if source.preprocessing is None:
        raise WrongUse(
            f"{source.name} does not say how its images are preprocessed",
            hint="say it with --preprocess {unit,raw,signed,caffe,torch}",
        )
    data = datasets.load(spec, "test", progress)
    size = image_size(source, data)
    chosen = np.arange(rounds * batch) % len(data)  # a small data set is gone through again
    feeds = [network_input(source, data.pixels(part, size)) for part in chosen.reshape(-1, batch)]
    return feeds, data.name


def network_input(source: Source, pixels: datasets.Pixels) -> Feeds:
    """Preprocess images and give them the type that the network's input has.

    Raises:
        WrongUse: the network takes whole numbers, and its preprocessing makes fractions.
    """
    assert source.preprocessing is not None
    port = source.inputs[0]
    whole = np.issubdtype(np.dtype(port.dtype), np.integer)
    if whole and source.preprocessing != "raw":
        raise WrongUse(
            f"{source.name} takes {port.dtype}, and preprocessing "
            f"{source.preprocessing!r} makes fractions",
            hint="use --preprocess raw",
        )
    return {port.name: preprocess(source.preprocessing, pixels).astype(port.dtype, copy=False)}


def _noise(source: Source, batch: int, rng: np.random.Generator) -> Feeds:
    """Draw an input of every port: [0, 1) for floats, 0 to 9 for whole numbers."""
    feeds = {}
    for port in source.inputs:
        if None in port.shape[1:]:
            raise WrongUse(
                f"input {port.name!r} of {source.name} has an open size: {port.shape}",
                hint="build the network with a fixed image size",
            )
        shape = (batch, *(size or 1 for size in port.shape[1:]))
        whole = np.issubdtype(np.dtype(port.dtype), np.integer)
        drawn = rng.integers(0, 10, shape) if whole else rng.random(shape)
        feeds[port.name] = drawn.astype(port.dtype)
    return feeds


def _default_data(source: Source) -> str | None:
    """Fashion-MNIST for networks it fits; for any other there is no image without ``--data``."""
    shape = source.inputs[0].shape
    fits = len(source.inputs) == 1 and len(shape) == 4 and None not in shape[1:] and shape[-1] == 1
    return "fashion-mnist" if fits and source.preprocessing is not None else None


def image_size(source: Source, data: datasets.Dataset) -> tuple[int, int]:
    """Return the height and width the network takes.

    Raises:
        WrongUse: it does not take one image, or not one with the data's channels.
    """
    shape = source.inputs[0].shape
    if len(source.inputs) != 1 or len(shape) != 4 or shape[1] is None or shape[2] is None:
        raise WrongUse(f"{source.name} does not take one image of a fixed size: {source.inputs}")
    if shape[-1] != data.channels:
        raise WrongUse(
            f"{source.name} takes images of {shape[-1]} channel(s), "
            f"{data.name} has {data.channels}",
            hint="choose other data with --data",
        )
    return shape[1], shape[2]
