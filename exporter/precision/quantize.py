"""From a folded float32 graph to INT8 or FP8: measure, recover, hold the budget, insert, lint."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx_ir as ir

from calibration import convergence
from calibration.params import Params
from exporter.artifact.folder import CALIBRATION, SENSITIVITY
from exporter.config import ExportConfig, RecoveryName
from exporter.data.held_out import hold_out
from exporter.errors import ConversionError
from exporter.machine.cpus import lacks_vnni
from exporter.network.sources import Source
from exporter.passes import PassReport
from exporter.passes.lint_qdq import lint_qdq
from exporter.passes.schemes import Scheme, lookup
from exporter.precision.fallback import Fallback, hold_budget
from exporter.precision.measure import Measured, measure, nothing_to_quantize
from exporter.precision.recovery import Recovered, recover
from exporter.progress import Progress


@dataclass(frozen=True)
class Quantization:
    """The result of quantizing a graph.

    Attributes:
        scheme: where the integers went, and which ones.
        params: the calibration, for the artifact.
        reports: of the passes, for the passport.
        warnings: of the calibration, the budget and the lint.
        recovery: how many nodes each method of recovery changed.
        measured_on: the float32 graph that the ranges belong to.
        fallback: the layers that stay in float to hold a budget. None if there was no budget.
    """

    scheme: Scheme
    params: Params
    reports: list[PassReport]
    warnings: list[str]
    recovery: dict[RecoveryName, int]
    measured_on: ir.Model
    fallback: Fallback | None = None

    def as_json(self) -> dict[str, Any]:
        """Return what the passport records about it."""
        return {
            "scheme": self.scheme.name,
            "reduce_range": self.scheme.reduce_range,
            "calibrator": self.params.method,
            "calibration_images": self.params.images,
            "stopped_early": self.params.stopped_early,
            "convergence": convergence.summary(self.params.convergence),
            "recovery": self.recovery,
            "max_drop": self.fallback and self.fallback.as_json(),
            "warnings": self.warnings,
        }

    def save(self, folder: Path) -> None:
        """Write the calibration, and the layers' sensitivity if it was measured."""
        self.params.save(folder / CALIBRATION)
        if self.fallback is not None and self.fallback.sensitivity is not None:
            sensitivity = self.fallback.sensitivity.as_json()
            text = json.dumps(sensitivity, indent=1, allow_nan=False)
            (folder / SENSITIVITY).write_text(text + "\n", encoding="utf-8")


def quantize(
    model: ir.Model, source: Source, config: ExportConfig, scheme: str, progress: Progress
) -> Quantization:
    """Quantize a graph in place.

    Args:
        model: folded, float32, as the FP32 export has it.
        source: the network that it came from.
        config: ``calibration``, ``int8`` and ``data`` matter here.
        scheme: a name in :data:`exporter.passes.schemes.SCHEMES`.
        progress: called for each batch of images, and for each graph that is tried.

    Raises:
        CalibrationError: there are no usable images, or the calibration is for something else.
        ConversionError: the lint found a defect; the error names the node.
        GateRefused: ``max_drop`` can't be held.
        WrongUse: there is no data to calibrate on, or the network does not take images.
    """
    row = scheme_with_bits(scheme, config)
    measured = measure(model, source, config, row, progress)
    recovered = recover(measured.trials, measured.methods, measured.images, progress)
    fallback, notes = _budget(recovered, measured, source, config, progress)
    keep = fallback.nodes if fallback else ()
    restored, inserted = recovered.trials.quantize(model, keep)
    if not inserted.applied and fallback is None:
        raise nothing_to_quantize(source.name, inserted.kept)
    findings = lint(model, row)

    changed = measured.equalized | recovered.reports
    return Quantization(
        scheme=row,
        params=measured.params,
        reports=[
            *measured.reports,
            *changed.values(),
            *([restored] if fallback else []),
            inserted,
        ],
        warnings=[*measured.warnings, *notes, *findings],
        recovery={
            name: len({*report.applied} - {*restored.applied}) for name, report in changed.items()
        },
        measured_on=measured.trials.original,
        fallback=fallback,
    )


def scheme_with_bits(name: str, config: ExportConfig) -> Scheme:
    """Return the scheme, with the weight bits asked for or those that this CPU sums right."""
    bits = config.int8.weight_bits or (7 if name == "cpu" and lacks_vnni() else 8)
    return lookup(name, reduce_range=bits == 7)


def lint(model: ir.Model, scheme: Scheme) -> list[str]:
    """Check a quantized graph; return the warnings.

    Raises:
        ConversionError: the graph breaks a rule of its scheme.
    """
    findings = lint_qdq(model, scheme)
    errors = [str(each) for each in findings if each.severity == "error"]
    if errors:
        raise ConversionError(
            f"the quantized graph breaks the rules of scheme {scheme.name!r}: {errors[0]}",
            hint=f"{len(errors)} findings in all; please report this with the model",
        )
    return [str(each) for each in findings]


def _budget(
    recovered: Recovered,
    measured: Measured,
    source: Source,
    config: ExportConfig,
    progress: Progress,
) -> tuple[Fallback | None, list[str]]:
    """Choose the layers to leave in float, with what a reader of the result should know."""
    if config.int8.max_drop is None:
        return None, []
    images, notes = hold_out(source, config, measured.params, progress, used=recovered.images)
    fallback = hold_budget(recovered.trials, images, config.int8.max_drop, progress)
    return fallback, [*notes, *fallback.warnings]
