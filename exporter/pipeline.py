"""The main path, top to bottom: network, graph, passes, proof, precision, target, artifact."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from typing import TYPE_CHECKING

from exporter import targets
from exporter.artifact import folder as artifact
from exporter.artifact import serialize
from exporter.artifact.folder import MODEL, Artifact
from exporter.config import ExportConfig, Layout
from exporter.data.feeds import check_feeds, first_images, in_layout, other_feeds
from exporter.errors import Missing
from exporter.models.preprocessing import GIVEN
from exporter.network import sources
from exporter.network.sizes import sized
from exporter.network.sources import Source
from exporter.progress import Progress, silent
from exporter.proof import prove_engine, prove_equal
from exporter.targets.quantized import refuse_methods, scheme_of

if TYPE_CHECKING:
    import onnx_ir as ir

    from exporter.network.runner import Feeds
    from exporter.passes import PassReport
    from exporter.precision.sensitivity import Sensitivity

_STEPS = 7


def export(
    config: ExportConfig, progress: Progress = silent, *, live: Source | None = None
) -> Artifact:
    """Take a network to an artifact, or fail and leave nothing behind.

    Args:
        config: the request.
        progress: called for every step.
        live: a network in memory, in place of ``config.model``.

    Raises:
        WrongUse: we can't do the request as it stands.
        ConversionError: an op does not convert, or the graph is not the same network.
        GateRefused: INT8 or FP8 loses more than ``int8.max_drop`` allows.
        Missing: the library of the target is not installed.
    """
    target, config = targets.check_request(config)
    compiler = target.load()
    artifact.check_free(config.output, force=config.force)

    def step(done: int, what: str) -> None:
        progress("export", done, _STEPS, what)

    step(0, "load the network")
    source, feeds, compared_on = _load(config, progress, live)

    from exporter.artifact import passport
    from exporter.network import frontend
    from exporter.precision import apply as precision

    step(1, "convert to ONNX")
    model = frontend.to_onnx(source, config.batch.fixed)
    step(2, "fold batch norm")
    reports = run_passes(model, config.layout)
    step(3, "check the graph")
    data = serialize.checked_bytes(model)
    step(4, "compare with Keras")
    proof = prove_equal(source, data, feeds, config.layout)
    for other in other_feeds(source, source.batch or config.batch.fixed or 2):
        prove_equal(source, data, [other], config.layout)
    step(5, f"make it {config.precision}")
    typed = precision.apply(model, source, config, target, feeds, progress)
    step(6, f"compile for {config.target}")
    with artifact.writing(config.output, force=config.force) as folder:
        (folder / MODEL).write_bytes(typed.data or data)
        build = targets.Build(
            config.batch, config.precision, config.build, progress, size=source.size
        )
        compiled = compiler.compile(folder, build)
        check = {"against": "keras", "data": compared_on, **proof.as_json()}
        reports += typed.reports
        fields = passport.describe_export(config, source, model, reports, check)
        typed.save(folder)
        sealed = artifact.seal(folder, {**fields, **typed.fields, **compiled.fields(config.target)})
        if config.is_quantized and target.device == "cpu":
            fixed = source.batch or config.batch.fixed
            feed = in_layout(feeds[0] if fixed else first_images(feeds[0]), config.layout)
            here = Artifact(folder, sealed)
            # Missing: it is for another CPU than this one.
            with contextlib.suppress(Missing), targets.open_artifact(here) as engine:
                prove_engine(engine, typed.data or data, data, feed, config.target)
    step(_STEPS, "done")
    return Artifact(config.output, sealed)


def measure_sensitivity(
    config: ExportConfig, progress: Progress = silent, *, live: Source | None = None
) -> Sensitivity:
    """Rank the layers by the loss when only that layer is INT8 or FP8. Writes nothing.

    Measured on ``int8.held_out_images``.

    Raises:
        As :func:`export`.
    """
    scheme = scheme_of(config, targets.lookup(config.target).scheme)
    refuse_methods(config, scheme)
    source, feeds, _ = _load(config, progress, live)

    from exporter.data.held_out import hold_out
    from exporter.network import frontend
    from exporter.precision import sensitivity
    from exporter.precision.measure import measure
    from exporter.precision.quantize import scheme_with_bits

    model = frontend.to_onnx(source, config.batch.fixed)
    run_passes(model, config.layout)
    prove_equal(source, serialize.checked_bytes(model), feeds, config.layout)
    measured = measure(model, source, config, scheme_with_bits(scheme.name, config), progress)
    images, notes = hold_out(source, config, measured.params, progress)
    result = sensitivity.measure(measured.trials, images, progress)
    return replace(result, warnings=(*measured.warnings, *notes))


def _load(
    config: ExportConfig, progress: Progress, live: Source | None
) -> tuple[Source, list[Feeds], str]:
    """Load the network; return it with inputs to compare it on, and their name."""
    source = live or sources.load(
        config.model,
        weights=config.weights,
        preprocessing=config.preprocess,
        trust=config.trust,
    )
    source = sized(source, config.input_size)
    if (
        source.preprocessing is None
        and config.data is not None
        and not isinstance(config.data, str)
    ):
        source = replace(source, preprocessing=GIVEN)
    targets.lookup(config.target).check_size(source.size)
    feeds, compared_on = check_feeds(config, source, progress)
    return source, feeds, compared_on


def run_passes(model: ir.Model, layout: Layout) -> list[PassReport]:
    """Apply the passes in order; each needs the work of those before it."""
    from onnx_ir.passes import common

    from exporter.passes.drop_identities import DropIdentities
    from exporter.passes.fold_batch_norm import FoldBatchNorm
    from exporter.passes.fold_constants import FoldConstants
    from exporter.passes.fold_pad import FoldPad
    from exporter.passes.fold_shapes import FoldShapes
    from exporter.passes.nchw_inputs import NchwInputs
    from exporter.passes.repeat_to_resize import RepeatToResize
    from exporter.passes.sink_squeezes import SinkSqueezes
    from exporter.passes.sink_transposes import SinkTransposes

    DropIdentities()(model)
    constants, transposes, batch_norms = FoldConstants(), SinkTransposes(), FoldBatchNorm()
    constants(model)  # the scale and shift of batch norms become constants
    reports = [constants.report]
    for rewrite in (FoldShapes(), RepeatToResize(), SinkSqueezes()):  # constant shapes first
        if rewrite(model).modified or rewrite.report.kept:
            reports.append(rewrite.report)
    if layout == "nchw":
        inputs = NchwInputs()
        inputs(model)
        reports.append(inputs.report)
    transposes(model)  # now nothing stands between a convolution and its batch norm
    pads = FoldPad()
    pads(model)
    batch_norms(model)
    common.RemoveUnusedNodesPass()(model)
    common.RemoveUnusedOpsetsPass()(model)
    return [
        *reports,
        transposes.report,
        pads.report,
        batch_norms.report,
        batch_norms.report_bias,
    ]
