"""From float32 to FP16: measure activations on training images, set the types, lint."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir

from exporter.config import ExportConfig, FloatType
from exporter.errors import ConversionError, WrongUse
from exporter.network.agreement import Agreement, compare
from exporter.passes import PassReport
from exporter.passes.constants import label
from exporter.passes.lint_types import lint_types
from exporter.passes.raise_opset import RaiseOpset
from exporter.passes.simulate_fp16 import simulated
from exporter.passes.to_fp16 import ToFp16, tensors_to_measure

if TYPE_CHECKING:
    from exporter.network.runner import Feeds
    from exporter.network.sources import Source
    from exporter.progress import Progress

NOT_MEASURED = "activations were not measured (no data): FP16 overflow is known for constants only"


@dataclass(frozen=True)
class Measured:
    """How large activations are on training images.

    Attributes:
        amax: the largest magnitude of each tensor, by name. Empty if there was no data.
        images: how many images they were measured on.
    """

    amax: dict[str, float]
    images: int


@dataclass(frozen=True)
class Halving:
    """The result of giving a graph FP16 types.

    Attributes:
        io: the type of the graph's inputs and outputs.
        images: how many images the activations were measured on. 0 means not measured.
        reports: of the passes, for the passport.
        warnings: of the measurement and the lint.
    """

    io: FloatType
    images: int
    reports: list[PassReport]
    warnings: list[str]

    def as_json(self) -> dict[str, Any]:
        """Return what the passport records about it. The passes list the nodes they kept."""
        return {"io": self.io, "measured_on_images": self.images, "warnings": self.warnings}


def measure(model: ir.Model, source: Source, config: ExportConfig, progress: Progress) -> Measured:
    """Find the largest magnitude of every tensor that FP16 may be too small for.

    Args:
        model: folded, float32, not quantized. Its tensors get their types.
        source: the network that it came from.
        config: ``data`` and ``calibration.images`` matter here.
        progress: called for each batch of images.

    Raises:
        CalibrationError: an activation is NaN or infinite on an image.
        WrongUse: the data set has too few training images.
    """
    from onnx_ir.passes import common

    from exporter.data import calibration_images, feeds

    common.ShapeInferencePass()(model)  # to know which tensors are float
    known = config.data is not None or (source.is_ours and feeds.default_data(source))
    if source.preprocessing is None or not known:
        return Measured({}, 0)
    tensors = tensors_to_measure(model)
    images = calibration_images.choose(source, config, progress)
    found, _ = calibration_images.observe(model, images, tensors, "minmax", progress)
    amax = {name: max(-one.low, one.high) for name, one in found.histograms.items()}
    return Measured(amax, found.images)


def to_half(model: ir.Model, measured: Measured, io: FloatType) -> Halving:
    """Give a graph FP16 types, in place.

    Raises:
        ConversionError: the lint found a defect, or every node has to stay FP32. The error names
            the node.
        WrongUse: the graph has half precision already, or an input does not fit in FP16.
    """
    from onnx_ir.passes import common

    _refuse_inputs(model, measured, io)
    common.ShapeInferencePass()(model)  # the passes need the tensors' types
    refuse_mixed(model)
    opset, half = RaiseOpset(), ToFp16(measured.amax, io)
    opset(model)
    half(model)
    if not half.report.applied:
        why = next((f": {each.node} stays, {each.reason}" for each in half.report.kept), "")
        raise ConversionError(f"nothing in the graph can be FP16{why}")
    findings = lint_types(model)
    errors = [each for each in findings if each.severity == "error"]
    if errors:
        raise ConversionError(
            f"the FP16 graph is not strongly typed: {errors[0]}",
            hint=f"{len(errors)} findings in all; please report this with the model",
        )
    warnings = [] if measured.images else [NOT_MEASURED]
    warnings += [str(each) for each in findings]
    raised = [opset.report] if opset.report.applied else []  # FP8 raises it before
    return Halving(io, measured.images, [*raised, half.report], warnings)


def refuse_mixed(model: ir.Model) -> None:
    """Refuse a network that has half precision already, such as Keras' ``mixed_float16``.

    We would have to undo its types before we could set others. The types must be inferred before.

    Raises:
        WrongUse: the error names the first such node.
    """
    halves = (ir.DataType.FLOAT16, ir.DataType.BFLOAT16)
    for node in model.graph:
        if any(value.dtype in halves for value in node.outputs):
            raise WrongUse(
                f"the network computes in half precision already, first in {label(node)}",
                hint="save it with the dtype policy float32: call "
                "keras.config.set_dtype_policy('float32'), build it again and load its weights",
            )


def compare_simulated(before: bytes, after: bytes, batches: Sequence[Feeds]) -> Agreement:
    """Run a graph and its simulated FP16 form on the same batches; return the worst agreement.

    Raises:
        ConversionError: FP16 gives infinity or NaN, and the graph did not.
    """
    from exporter.targets.ort import OrtRunner

    with (
        OrtRunner(before, as_written=True) as exact,
        OrtRunner(simulated(after), as_written=True) as half,
    ):
        pairs = [(exact.infer(feeds), half.infer(feeds)) for feeds in batches]
    worst = max(
        (
            compare(
                *(np.concatenate([run[name] for run in runs]) for runs in zip(*pairs, strict=True))
            )
            for name in pairs[0][0]
        ),
        key=lambda agreement: agreement.max_relative_error,
    )
    if not np.isfinite(worst.max_relative_error):
        raise ConversionError(
            "the outputs of the network are not finite in FP16: an activation overflows",
            hint="give real images with --data: we find such activations and keep them FP32",
        )
    return worst


def _refuse_inputs(model: ir.Model, measured: Measured, io: FloatType) -> None:
    """Refuse FP16 inputs that are too large for it."""
    from exporter.passes.half import LARGEST

    for value in model.graph.inputs:
        largest = measured.amax.get(str(value.name), 0.0)
        if io == "fp16" and largest > LARGEST:
            raise WrongUse(
                f"input {value.name!r} reaches {largest:.3g}, and the largest FP16 number is 65504",
                hint="leave out --io fp16",
            )
