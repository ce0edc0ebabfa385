"""From a folded FP32 graph to INT8: measure activations on training images, place Q/DQ, lint."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir

from calibration import convergence
from calibration.collect import FIRST_SNAPSHOT, Collected, Options, collect
from calibration.params import Params, calibrate
from calibration.params import load as load_params
from exporter import datasets
from exporter.config import ExportConfig
from exporter.doctor import lacks_vnni
from exporter.errors import ConversionError, WrongUse
from exporter.fallback import Fallback, hold_budget
from exporter.feeds import image_size, in_layout, network_input
from exporter.held_out import hold_out
from exporter.passes import PassReport
from exporter.passes.insert_qdq import InsertQdq, tensors_to_calibrate
from exporter.passes.lint_qdq import lint_qdq
from exporter.passes.schemes import Scheme, lookup
from exporter.preprocessing import describe
from exporter.progress import Progress
from exporter.sources import Source
from exporter.training_images import batches as in_batches
from exporter.training_images import choose_images
from exporter.trials import Trials

if TYPE_CHECKING:
    from exporter.runner import Feeds

CALIBRATION = "calibration.json"
SENSITIVITY = "sensitivity.json"
BATCH = 16
AUTO_TOLERANCE = 0.05
"""``--calibration-images auto`` stops below this: a step 5% too wide costs 0.4 dB of noise."""

AUTO_MOST = 8192  # images; FIRST_SNAPSHOT doubled nine times


@dataclass(frozen=True)
class Quantization:
    """What quantising a graph left.

    Attributes:
        scheme: where and how integers were put.
        params: the calibration, for the artefact.
        reports: of the passes, for the passport.
        warnings: of the calibration, the budget and the lint.
        fallback: what stays in float for a budget to hold; None where there was none.
    """

    scheme: Scheme
    params: Params
    reports: list[PassReport]
    warnings: list[str]
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
            "max_drop": self.fallback and self.fallback.as_json(),
            "warnings": self.warnings,
        }


@dataclass(frozen=True)
class Calibrated:
    """A graph that is ready to be quantised.

    Attributes:
        trials: the graph, the scheme and the ranges.
        params: the calibration.
        reports: of the passes that prepared it.
        warnings: of the calibration.
    """

    trials: Trials
    params: Params
    reports: list[PassReport]
    warnings: list[str]


def quantize(
    model: ir.Model, source: Source, config: ExportConfig, scheme: str, progress: Progress
) -> Quantization:
    """Quantise a graph in place.

    Args:
        model: folded, float32, as the FP32 export has it.
        source: the network it came from.
        config: ``calibrator``, ``calibration_images``, ``calibration``, ``data``, ``max_drop`` and
            ``held_out_images`` matter here.
        scheme: a name in :data:`exporter.passes.schemes.SCHEMES`.
        progress: told of every batch of calibration images.

    Raises:
        CalibrationError: no usable images, or a calibration made for something else.
        ConversionError: the lint found a defect; names the node.
        GateRefused: ``max_drop`` can't be held.
        WrongUse: no data to calibrate on, or the network takes no images.
    """
    ready = calibrated(model, source, config, scheme, progress)
    row, ranges, warnings = ready.trials.scheme, ready.trials.ranges, list(ready.warnings)
    fallback = None
    if config.max_drop is not None:
        images, notes = hold_out(source, config, ready.params, progress)
        fallback = hold_budget(ready.trials, images, config.max_drop, progress)
        warnings += [*notes, *fallback.warnings]
    insert = InsertQdq(row, ranges, keep=fallback.nodes if fallback else ())
    insert(model)
    reports = [*ready.reports, insert.report]
    return Quantization(row, ready.params, reports, warnings + _linted(model, row), fallback)


def calibrated(
    model: ir.Model, source: Source, config: ExportConfig, scheme: str, progress: Progress
) -> Calibrated:
    """Prepare a graph in place, and find its ranges; arguments and errors as for `quantize`."""
    row = lookup(scheme, reduce_range=scheme == "cpu" and lacks_vnni())
    reports = _prepare(model)
    if source.preprocessing is None:
        raise WrongUse(
            f"{source.name} does not say how its images are preprocessed",
            hint="say it with --preprocess {unit,raw,signed,caffe,torch}",
        )
    graph = hashlib.sha256(ir.to_proto(model).SerializeToString(deterministic=True)).hexdigest()
    size = (int(source.inputs[0].shape[1] or 0), int(source.inputs[0].shape[2] or 0))
    prepared = json.dumps(describe(source.preprocessing, size), sort_keys=True)
    if config.calibration is not None:
        params = load_params(config.calibration)
        warnings: list[str] = []
        params.check(graph=graph, preprocessing=prepared)
    else:
        params, warnings = _measure(model, source, config, row, (graph, prepared), progress)
    ranges = {
        name: (-tensor.amax, tensor.amax) if row.symmetric else (tensor.low, tensor.high)
        for name, tensor in params.tensors.items()
    }
    return Calibrated(Trials(model, row, ranges), params, reports, warnings)


def save_calibration(quantization: Quantization, folder: Path) -> None:
    """Write the calibration, and the layers' sensitivity if measured, into an artefact's folder."""
    quantization.params.save(folder / CALIBRATION)
    if quantization.fallback is not None and quantization.fallback.sensitivity is not None:
        text = json.dumps(quantization.fallback.sensitivity.as_json(), indent=1, allow_nan=False)
        (folder / SENSITIVITY).write_text(text + "\n", encoding="utf-8")


def _prepare(model: ir.Model) -> list[PassReport]:
    """Give the graph the ops that runtimes have integer kernels for."""
    from onnx_ir.passes import common

    from exporter.passes.dense_to_gemm import DenseToGemm
    from exporter.passes.mean_to_pool import MeanToPool

    common.ShapeInferencePass()(model)  # both ask for ranks
    pool, dense = MeanToPool(), DenseToGemm()
    pool(model)
    dense(model)
    return [pool.report, dense.report]


def _measure(
    model: ir.Model,
    source: Source,
    config: ExportConfig,
    scheme: Scheme,
    hashes: tuple[str, str],
    progress: Progress,
) -> tuple[Params, list[str]]:
    tensors = tensors_to_calibrate(model, scheme)
    found, data = observe(model, source, config, tensors, config.calibrator, progress)
    params = calibrate(
        found.histograms,
        config.calibrator,
        images=found.images,
        graph=hashes[0],
        data=data,
        preprocessing=hashes[1],
        stopped_early=found.stopped_early,
        snapshots=found.convergence,
    )
    return params, list(found.warnings)


def observe(
    model: ir.Model,
    source: Source,
    config: ExportConfig,
    tensors: Sequence[str],
    method: str,
    progress: Progress,
) -> tuple[Collected, str]:
    """Run training images through a graph; return what its tensors were, and the images' hash.

    Raises:
        CalibrationError: a tensor is not finite, or has not the batch as its first axis.
        WrongUse: too few images, or the network takes none.
    """
    spec = config.data or "fashion-mnist"
    data = datasets.load(spec, "train", progress)
    size = image_size(source, data)
    fixed = source.batch or config.batch.fixed
    asked = config.calibration_images
    most, least = (AUTO_MOST, FIRST_SNAPSHOT) if asked == "auto" else (asked, asked)
    test = datasets.load(spec, "test", progress)
    chosen = choose_images(data, test, size, most, least=least)
    pixels_hash = hashlib.sha256()

    def batches() -> Iterator[Feeds]:
        for pixels in in_batches(data, chosen, size, fixed or BATCH):
            pixels_hash.update(pixels.tobytes())
            # The last batch of a fixed size is filled up with images that do not count.
            whole = np.resize(pixels, (fixed or len(pixels), *pixels.shape[1:]))
            yield in_layout(network_input(source, whole), config.layout)

    found = collect(
        model,
        tensors,
        batches(),
        images=len(chosen),
        open_session=_session,
        options=Options(
            method=method,
            tolerance=AUTO_TOLERANCE if config.calibration_images == "auto" else None,
        ),
        labels=data.labels[chosen],
        progress=progress,
    )
    return found, pixels_hash.hexdigest()


def _session(graph: bytes) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    # Spinning threads would take the cores that count the values meanwhile.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


def _linted(model: ir.Model, scheme: Scheme) -> list[str]:
    findings = lint_qdq(model, scheme)
    errors = [str(each) for each in findings if each.severity == "error"]
    if errors:
        raise ConversionError(
            f"the quantised graph breaks the rules of scheme {scheme.name!r}: {errors[0]}",
            hint=f"{len(errors)} findings in all; please report this with the model",
        )
    return [str(each) for each in findings]
