"""From a folded FP32 graph to INT8 or FP8: measure activations on images, place Q/DQ, lint."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import onnx_ir as ir

from calibration import convergence
from calibration.params import Params, calibrate
from calibration.params import load as load_params
from exporter.artifact.folder import CALIBRATION, SENSITIVITY
from exporter.config import ExportConfig, RecoveryName
from exporter.data import calibration_images
from exporter.data.calibration_images import CalibrationImages
from exporter.data.feeds import fixed_size
from exporter.data.held_out import hold_out
from exporter.errors import ConversionError, WrongUse
from exporter.machine.cpus import lacks_vnni
from exporter.models.preprocessing import describe
from exporter.network.sources import Source
from exporter.passes import Kept, PassReport
from exporter.passes.insert_qdq import tensors_to_calibrate
from exporter.passes.lint_qdq import lint_qdq
from exporter.passes.placement import place
from exporter.passes.schemes import Scheme, lookup
from exporter.precision import recovery
from exporter.precision.fallback import Fallback, hold_budget
from exporter.precision.half import refuse_mixed
from exporter.precision.trials import Trials
from exporter.progress import Progress


@dataclass(frozen=True)
class Quantization:
    """What quantizing a graph left.

    Attributes:
        scheme: where and how integers were put.
        params: the calibration, for the artifact.
        reports: of the passes, for the passport.
        warnings: of the calibration, the budget and the lint.
        recovery: how many nodes each method of recovery changed.
        fallback: what stays in float for a budget to hold; None where there was none.
    """

    scheme: Scheme
    params: Params
    reports: list[PassReport]
    warnings: list[str]
    recovery: dict[RecoveryName, int]
    fallback: Fallback | None = None

    def as_json(self) -> dict[str, Any]:
        """Return what the passport records of it."""
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


@dataclass(frozen=True)
class Calibrated:
    """A graph that is ready to be quantized.

    Attributes:
        trials: the graph, the scheme and the ranges.
        params: the calibration.
        images: what it was measured on, and what recovery measures on; None where neither does.
        methods: of recovery.
        recovered: what they changed before the calibration.
        reports: of the passes that prepared the graph.
        warnings: of the calibration.
    """

    trials: Trials
    params: Params
    images: CalibrationImages | None
    methods: tuple[RecoveryName, ...]
    recovered: dict[RecoveryName, PassReport]
    reports: list[PassReport]
    warnings: list[str]


def quantize(
    model: ir.Model, source: Source, config: ExportConfig, scheme: str, progress: Progress
) -> Quantization:
    """Quantize a graph in place.

    Args:
        model: folded, float32, as the FP32 export has it.
        source: the network it came from.
        config: ``calibrator``, ``calibration_images``, ``calibration``, ``recovery``, ``data``,
            ``max_drop`` and ``held_out_images`` matter here.
        scheme: a name in :data:`exporter.passes.schemes.SCHEMES`.
        progress: told of every batch of calibration images.

    Raises:
        CalibrationError: no usable images, or a calibration made for something else.
        ConversionError: the lint found a defect; names the node.
        GateRefused: ``max_drop`` can't be held.
        WrongUse: no data to calibrate on, or the network takes no images.
    """
    return finish(calibrated(model, source, config, scheme, progress), source, config, progress)


def finish(
    ready: Calibrated, source: Source, config: ExportConfig, progress: Progress
) -> Quantization:
    """Quantize what :func:`calibrated` prepared, in place; errors as for `quantize`."""
    trials, warnings = ready.trials, list(ready.warnings)
    model, row = trials.model, trials.scheme
    recovered, fallback = ready.recovered, None
    used = 0
    if ready.images is not None and recovery.measured(ready.methods):
        trials = replace(trials, unrecovered=model.clone())
        used = min(recovery.IMAGES, len(ready.images))
        setting = _setting(trials, ready.images, progress)
        recovered = recovered | recovery.with_images(model, ready.methods, setting)
    if config.max_drop is not None:
        images, notes = hold_out(source, config, ready.params, progress, used=used)
        fallback = hold_budget(trials, images, config.max_drop, progress)
        warnings += [*notes, *fallback.warnings]
    restored, inserted = trials.quantize(model, fallback.nodes if fallback else ())
    if not inserted.applied and fallback is None:
        raise _nothing(source.name, inserted.kept)
    return Quantization(
        scheme=row,
        params=ready.params,
        reports=[*ready.reports, *recovered.values(), *([restored] if fallback else []), inserted],
        warnings=warnings + _linted(model, row),
        recovery={
            name: len({*report.applied} - {*restored.applied}) for name, report in recovered.items()
        },
        fallback=fallback,
    )


def calibrated(
    model: ir.Model, source: Source, config: ExportConfig, scheme: str, progress: Progress
) -> Calibrated:
    """Prepare a graph in place, and find its ranges; arguments and errors as for `quantize`."""
    row = _scheme(scheme, config)
    size = fixed_size(source)
    reports = prepare(model)
    refuse_mixed(model)
    methods, notes = recovery.chosen(config, row)
    recovered = recovery.before_calibration(model, methods)
    if source.preprocessing is None:
        raise WrongUse(
            f"{source.name} does not say how its images are preprocessed",
            hint="say it with --preprocess {unit,raw,signed,caffe,torch}",
        )
    if not tensors_to_calibrate(model, row):
        raise _nothing(source.name, place(model, row).kept)
    graph = graph_hash(model)  # before its opset is raised, as a ladder makes it again
    reports += raise_opset(model, row)
    prepared = json.dumps(describe(source.preprocessing, size), sort_keys=True)
    images = measured_images(source, config, methods, progress)
    if config.calibration is not None:
        params = load_params(config.calibration)
        warnings: list[str] = []
        params.check(graph=graph, preprocessing=prepared)
    else:
        assert images is not None
        params, warnings = _measure(model, images, row, (graph, prepared), progress)
    trials = Trials(model, row, params.ranges(row.activations.kind))
    return Calibrated(trials, params, images, methods, recovered, reports, [*warnings, *notes])


def _scheme(name: str, config: ExportConfig) -> Scheme:
    """The row, with weights of the bits asked for, or of those that this CPU sums right."""
    bits = config.weight_bits or (7 if name == "cpu" and lacks_vnni() else 8)
    return lookup(name, reduce_range=bits == 7)


def graph_hash(model: ir.Model) -> str:
    """Name a graph by its bytes, as a calibration names the one that it was measured on."""
    return hashlib.sha256(ir.to_proto(model).SerializeToString(deterministic=True)).hexdigest()


def save_calibration(quantization: Quantization, folder: Path) -> None:
    """Write the calibration, and the layers' sensitivity if measured, into an artifact's folder."""
    quantization.params.save(folder / CALIBRATION)
    if quantization.fallback is not None and quantization.fallback.sensitivity is not None:
        text = json.dumps(quantization.fallback.sensitivity.as_json(), indent=1, allow_nan=False)
        (folder / SENSITIVITY).write_text(text + "\n", encoding="utf-8")


def prepare(model: ir.Model) -> list[PassReport]:
    """Give the graph the ops that runtimes have integer kernels for."""
    from onnx_ir.passes import common

    from exporter.passes.dense_to_gemm import DenseToGemm
    from exporter.passes.mean_to_pool import MeanToPool

    common.ShapeInferencePass()(model)  # both ask for ranks
    pool, dense = MeanToPool(), DenseToGemm()
    pool(model)
    dense(model)
    return [pool.report, dense.report]


def raise_opset(model: ir.Model, scheme: Scheme) -> list[PassReport]:
    """Declare the opset that the scheme's types need, where the graph has an older one."""
    from exporter.passes.raise_opset import RaiseOpset

    if model.opset_imports.get("", 1) >= scheme.opset:
        return []
    opset = RaiseOpset()
    opset(model)
    return [opset.report]


def measured_images(
    source: Source,
    config: ExportConfig,
    methods: Collection[RecoveryName],
    progress: Progress,
) -> CalibrationImages | None:
    """Choose what to measure on; None where nothing is measured.

    Raises:
        WrongUse: a calibration is given, and what else needs images isn't.
    """
    needed = recovery.measured(methods)
    if config.calibration is not None and not needed:
        return None
    if config.calibration is not None and config.data is None:
        raise WrongUse(
            f"--recovery {','.join(needed)} measures on images, "
            "and --calibration has their ranges only",
            hint="give the images too, with --data; equalize alone needs none",
        )
    return calibration_images.choose(source, config, progress)


def _measure(
    model: ir.Model,
    images: CalibrationImages,
    scheme: Scheme,
    hashes: tuple[str, str],
    progress: Progress,
) -> tuple[Params, list[str]]:
    tensors, method = tensors_to_calibrate(model, scheme), images.config.calibrator
    kind = scheme.activations.kind
    kind = kind if kind == "e4m3" else "symmetric"  # of INT8, one that serves both its schemes
    found, data = calibration_images.observe(model, images, tensors, method, progress, kind)
    params = calibrate(
        found.histograms,
        method,
        images=found.images,
        graph=hashes[0],
        data=data,
        preprocessing=hashes[1],
        kind=kind,
        stopped_early=found.stopped_early,
        snapshots=found.convergence,
    )
    return params, list(found.warnings)


def _setting(trials: Trials, images: CalibrationImages, progress: Progress) -> recovery.Setting:
    open_session = calibration_images.open_session
    symmetric = trials.scheme.symmetric
    return recovery.Setting(
        trials.scheme,
        trials.ranges,
        reference=ir.to_proto(trials.model).SerializeToString(),
        batches=lambda limit: map(images.feeds, images.pixels(limit)),
        images=len(images),
        open_float=open_session,
        # Fused signed kernels saturate on some CPUs, where the GPU that is meant does not.
        open_int8=partial(open_session, as_written=True) if symmetric else open_session,
        progress=progress,
    )


def _nothing(name: str, kept: Sequence[Kept]) -> ConversionError:
    why = next((f": {each.node} stays, {each.reason}" for each in kept), "")
    return ConversionError(f"nothing in {name} can be quantised{why}")


def _linted(model: ir.Model, scheme: Scheme) -> list[str]:
    findings = lint_qdq(model, scheme)
    errors = [str(each) for each in findings if each.severity == "error"]
    if errors:
        raise ConversionError(
            f"the quantised graph breaks the rules of scheme {scheme.name!r}: {errors[0]}",
            hint=f"{len(errors)} findings in all; please report this with the model",
        )
    return [str(each) for each in findings]
