"""The first step to INT8 and FP8: make a graph ready for them, and measure its tensors' ranges."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from calibration.params import Params, calibrate
from calibration.params import load as load_params
from exporter.config import ExportConfig, RecoveryName
from exporter.data import calibration_images
from exporter.data.calibration_images import CalibrationImages
from exporter.data.feeds import fixed_size
from exporter.errors import ConversionError, WrongUse
from exporter.models.preprocessing import GIVEN, describe
from exporter.network.sources import Source
from exporter.passes import Kept, PassReport
from exporter.passes.insert_qdq import tensors_to_calibrate
from exporter.passes.placement import place
from exporter.passes.schemes import Scheme
from exporter.precision import recovery
from exporter.precision.half import refuse_mixed
from exporter.precision.trials import Trials
from exporter.progress import Progress


@dataclass(frozen=True)
class Measured:
    """A graph that is ready to be quantized, and its ranges.

    Attributes:
        trials: the graph, the scheme and the ranges.
        params: the calibration.
        images: the images that it was measured on, which recovery measures on too. None if
            neither measures anything.
        methods: of recovery.
        equalized: what the methods changed that run before the calibration.
        reports: of the passes that prepared the graph.
        warnings: of the calibration.
    """

    trials: Trials
    params: Params
    images: CalibrationImages | None
    methods: tuple[RecoveryName, ...]
    equalized: dict[RecoveryName, PassReport]
    reports: list[PassReport]
    warnings: list[str]


def measure(
    model: ir.Model, source: Source, config: ExportConfig, scheme: Scheme, progress: Progress
) -> Measured:
    """Prepare a graph in place, and find its ranges.

    Args:
        model: folded, float32, as the FP32 export has it.
        source: the network that it came from.
        config: ``calibration``, ``int8.recovery`` and ``data`` matter here.
        scheme: where Q/DQ will go.
        progress: called for each batch of calibration images.

    Raises:
        CalibrationError: there are no usable images, or the calibration is for something else.
        ConversionError: the scheme quantizes nothing in the graph.
        WrongUse: there is no data to calibrate on, or the network does not take images.
    """
    size = () if source.preprocessing == GIVEN else fixed_size(source)
    reports = prepare(model)
    refuse_mixed(model)
    methods, notes = recovery.chosen(config, scheme)
    equalized = recovery.before_calibration(model, methods)
    if source.preprocessing is None:
        raise WrongUse(
            f"the preprocessing of {source.name} is unknown",
            hint="give it with --preprocess {unit,raw,signed,caffe,torch}",
        )
    if not tensors_to_calibrate(model, scheme):
        raise nothing_to_quantize(source.name, place(model, scheme).kept)
    graph = graph_hash(model)  # before the opset is raised: the drift ladder makes this graph again
    reports += _raise_opset(model, scheme)
    prepared = json.dumps(describe(source.preprocessing, size), sort_keys=True)
    images = images_for(source, config, methods, progress)
    if config.calibration.file is not None:
        params = load_params(config.calibration.file)
        warnings: list[str] = []
        params.check(graph=graph, preprocessing=prepared)
    else:
        assert images is not None
        params, warnings = _ranges(model, images, scheme, (graph, prepared), progress)
    trials = Trials(model, scheme, params.ranges(scheme.activations.kind), original=model.clone())
    return Measured(trials, params, images, methods, equalized, reports, [*warnings, *notes])


def prepare(model: ir.Model) -> list[PassReport]:
    """Give the graph the ops that runtimes have integer kernels for."""
    from onnx_ir.passes import common

    from exporter.passes.dense_to_gemm import DenseToGemm
    from exporter.passes.mean_to_pool import MeanToPool

    common.ShapeInferencePass()(model)  # both passes need ranks
    pool, dense = MeanToPool(), DenseToGemm()
    pool(model)
    dense(model)
    return [pool.report, dense.report]


def graph_hash(model: ir.Model) -> str:
    """Return the hash by which a calibration names the graph that it was measured on."""
    return hashlib.sha256(ir.to_proto(model).SerializeToString(deterministic=True)).hexdigest()


def images_for(
    source: Source,
    config: ExportConfig,
    methods: Collection[RecoveryName],
    progress: Progress,
) -> CalibrationImages | None:
    """Choose the images to measure on; None if nothing is measured.

    Raises:
        WrongUse: a calibration is given, but a method of recovery needs its images too.
    """
    needed = recovery.measured(methods)
    if config.calibration.file is not None and not needed:
        return None
    if config.calibration.file is not None and config.data is None:
        raise WrongUse(
            f"--recovery {','.join(needed)} measures on images, "
            "and --calibration has their ranges only",
            hint="give the images too, with --data; equalize alone needs none",
        )
    return calibration_images.choose(source, config, progress)


def nothing_to_quantize(name: str, kept: Sequence[Kept]) -> ConversionError:
    """Return the error for a network without a node that can be quantized."""
    why = next((f": {each.node} stays, {each.reason}" for each in kept), "")
    return ConversionError(f"nothing in {name} can be quantized{why}")


def _raise_opset(model: ir.Model, scheme: Scheme) -> list[PassReport]:
    """Declare the opset that the scheme's types need, if the graph has an older one."""
    from exporter.passes.raise_opset import RaiseOpset

    if model.opset_imports.get("", 1) >= scheme.opset:
        return []
    opset = RaiseOpset()
    opset(model)
    return [opset.report]


def _ranges(
    model: ir.Model,
    images: CalibrationImages,
    scheme: Scheme,
    hashes: tuple[str, str],
    progress: Progress,
) -> tuple[Params, list[str]]:
    tensors = tensors_to_calibrate(model, scheme)
    method = images.config.calibration.calibrator
    kind = scheme.activations.kind
    kind = kind if kind == "e4m3" else "symmetric"  # for INT8, one that serves both its schemes
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
