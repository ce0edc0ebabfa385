"""The facts that the gate compares: the graph by layer, the fusions and the predictions.

Everything but the predictions is read from the files. The passport is used only for what the
graph itself does not say.
"""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from benchmarks.drift.sketch import sketch
from calibration.formats import FORMATS
from exporter import targets
from exporter.artifact.folder import CALIBRATION, MODEL, Artifact
from exporter.config import QUANTIZED
from exporter.errors import ExporterError
from exporter.passes import LAYER_KEY
from exporter.passes.constants import constant_array, label
from exporter.passes.placement import LINEAR_OPS
from exporter.passes.qdq import Quantization, is_op, limits_of, producer_of, read_quantization

if TYPE_CHECKING:
    import onnx_ir as ir

_LINEAR_INPUTS = {1: "weight", 2: "bias"}

Labels = npt.NDArray[np.int64]
Layer = dict[str, str]


@dataclass(frozen=True)
class Run:
    """Results of an artifact and of its Keras original on the same test images.

    Attributes:
        data: the value of ``--data``.
        data_sha256: hash of images and labels, at the network's input size.
        runtime: name of the runtime.
        predicted: (images,), the artifact's labels.
        keras: (images,), the original's labels.
        mean_abs_error: mean absolute error of the logits against the original.
        max_relative_error: largest error, as a share of the original's largest logit.
        truth: (images,), the right labels; None if read from a baseline, as the data has them.
    """

    data: str
    data_sha256: str
    runtime: str
    predicted: Labels
    keras: Labels
    mean_abs_error: float
    max_relative_error: float
    truth: Labels | None = None


@dataclass(frozen=True)
class Facts:
    """All facts to compare.

    Attributes:
        key: model, target and precision; if quantized, also scheme and width of the weights.
        source: SHA-256 of the Keras original.
        network: inputs and outputs; if they differ, it is another model with the same name.
        setting: preprocessing of images, and the calibration.
        folded: how many batch norms were folded into the convolution before them.
        unfolded: batch norms left in the graph, with the reason.
        ops: the graph's ops, counted.
        layers: for every node with constants: ``op``, Keras ``layer``, and a sketch per constant.
        ranges: for every quantized activation, the least and the greatest value it can hold.
        warnings: warnings about INT8 or FP8.
        files: bytes by name.
        fused: what the runtime executes, counted; None if that can't be found out here.
        latency_ratio: latency divided by the original's; None if not measured.
        runs: by kind of run: ``engine``, or ``simulated`` if the engine needs another machine.
    """

    key: str
    source: str
    network: str
    setting: dict[str, str]
    folded: int
    unfolded: dict[str, str]
    ops: dict[str, int]
    layers: dict[str, Layer]
    ranges: dict[str, tuple[float, float]]
    warnings: list[str]
    files: dict[str, int]
    fused: dict[str, int] | None = None
    latency_ratio: float | None = None
    runs: dict[str, Run] = field(default_factory=dict)


def key_of(artifact: Artifact) -> str:
    """Return the key of a baseline entry. Artifacts with different keys can't be compared."""
    passport = artifact.passport
    model = Path(passport["source"]["model"]).stem
    precision = passport["precision"]
    if precision in QUANTIZED and "fp16" in passport:
        precision = f"{precision}+fp16"
    parts = [model, artifact.target, precision]
    if found := artifact.quantization:
        parts += [found["scheme"], "7-bit" if found["reduce_range"] else "8-bit"]
    return "/".join(parts)


def read_facts(artifact: Artifact) -> Facts:
    """Read all facts that need no run; each file's hash is checked before it is opened.

    Raises:
        ExporterError: a file is damaged, or its hash doesn't match the passport.
    """
    passport = artifact.passport
    model = _load(artifact)
    folds = passport["passes"].get("fold_batch_norm", {"applied": 0, "kept": []})
    ratio = passport.get("measured", {}).get("latency", {}).get("ratio_to_original")
    return Facts(
        key=key_of(artifact),
        source=passport["source"]["sha256"],
        network=json.dumps([passport["graph"]["inputs"], passport["graph"]["outputs"]]),
        setting=_setting(artifact),
        folded=folds["applied"],
        unfolded={kept["node"]: kept["reason"] for kept in folds["kept"]},
        ops=dict(sorted(Counter(_op(node) for node in model.graph).items())),
        layers=dict(_layers(model)),
        ranges=dict(_ranges(model)),
        warnings=list((artifact.quantization or {}).get("warnings", [])),
        files={name: record["bytes"] for name, record in passport["files"].items()},
        fused=_fused(artifact),
        latency_ratio=None if ratio is None else float(ratio),
    )


def _load(artifact: Artifact) -> ir.Model:
    import onnx
    import onnx_ir as ir

    file = artifact.file(MODEL)
    try:
        return ir.from_proto(onnx.load(file, load_external_data=False))
    except Exception as error:  # protobuf raises its own class, which has no types
        raise ExporterError(f"{file} is not an ONNX graph: {error}") from error


def _op(node: ir.Node) -> str:
    return f"{node.domain}::{node.op_type}" if node.domain else node.op_type


def _setting(artifact: Artifact) -> dict[str, str]:
    """Return preprocessing, layout and calibration, each as text that reads well in a diff."""
    preprocessing = artifact.passport.get("preprocessing")
    found = {
        "preprocessing": json.dumps(preprocessing, sort_keys=True) if preprocessing else "unknown",
        "layout": artifact.passport["layout"],
    }
    if CALIBRATION in artifact.passport["files"]:
        from calibration.params import load

        params = load(artifact.file(CALIBRATION))
        found["calibrator"] = params.method
        found["calibration images"] = f"{params.images}, SHA-256 {params.data}"
    return found


def _layers(model: ir.Model) -> list[tuple[str, Layer]]:
    """Sketch the floating-point constants of each node, with the values that it computes with."""
    found = []
    for node in model.graph:
        if is_op(node, "QuantizeLinear") or is_op(node, "DequantizeLinear"):
            continue
        arrays = {index: _seen(value) for index, value in enumerate(node.inputs)}
        constants = {
            _LINEAR_INPUTS.get(index, f"input {index}")
            if node.op_type in LINEAR_OPS
            else f"input {index}": sketch(array)
            for index, array in arrays.items()
            if array is not None and array.size and np.issubdtype(array.dtype, np.floating)
        }
        if constants:
            origin = node.metadata_props.get(LAYER_KEY, "")
            found.append((label(node), {"op": _op(node), "layer": origin, **constants}))
    return found


def _seen(value: ir.Value | None) -> npt.NDArray[Any] | None:
    """Return a constant's value after Q/DQ and casts; None if it isn't a constant."""
    array = constant_array(value)
    if array is not None or value is None:
        return array
    if (cast := producer_of(value, "Cast")) is not None:
        return _seen(cast.inputs[0])
    pair = producer_of(value, "DequantizeLinear")
    found = None if pair is None else read_quantization(pair)
    if pair is None or found is None:
        return None
    integers = constant_array(pair.inputs[0])
    if integers is None:
        integers = _quantised(producer_of(pair.inputs[0], "QuantizeLinear"))
    if integers is None:
        return None
    scale, zero = (_along(each, integers.ndim, found) for each in (found.scale, found.zero_point))
    return (integers.astype(np.float64) - zero) * scale


def _quantised(node: ir.Node | None) -> npt.NDArray[Any] | None:
    """Return a QuantizeLinear's result for a constant."""
    found = None if node is None else read_quantization(node)
    values = None if node is None else _seen(node.inputs[0])
    if found is None or values is None:
        return None
    low, high = limits_of(found.dtype)
    scale, zero = (_along(each, values.ndim, found) for each in (found.scale, found.zero_point))
    scaled = values.astype(np.float64) / scale
    if found.is_float:
        return FORMATS["float8_e4m3fn"].round(scaled)
    return np.clip(np.round(scaled) + zero, low, high)


def _along(array: npt.NDArray[Any], rank: int, found: Quantization) -> npt.NDArray[np.float64]:
    wide = array.astype(np.float64)
    if found.per_tensor:
        return wide.reshape(())
    return wide.reshape([-1 if axis == found.axis % rank else 1 for axis in range(rank)])


def _ranges(model: ir.Model) -> list[tuple[str, tuple[float, float]]]:
    """Return each activation's range: the least and greatest real that its integers stand for."""
    found = []
    for node in model.graph:
        quantization = read_quantization(node) if is_op(node, "QuantizeLinear") else None
        source = node.inputs[0] if node.inputs else None
        if quantization is None or source is None or _seen(source) is not None:
            continue
        low, high = limits_of(quantization.dtype)
        scale = float(quantization.scale.ravel()[0])
        zero = int(quantization.zero_point.ravel()[0])
        found.append((str(source.name), ((low - zero) * scale, (high - zero) * scale)))
    return found


def _fused(artifact: Artifact) -> dict[str, int] | None:
    """Count what the runtime executes, as far as known without running it."""
    from exporter.engines.record import LAYERS

    passport = artifact.passport
    if LAYERS in passport["files"]:
        return _fused_by_tensorrt(artifact)
    executed = passport.get(artifact.target, {}).get("executed")
    if isinstance(executed, dict):  # OpenVINO's list of layers; TensorRT-RTX has a sentence
        at = [executed["layers"]["columns"].index(name) for name in ("type", "precision")]
        rows = executed["layers"]["rows"]
        return dict(sorted(Counter(" in ".join(row[i] for i in at) for row in rows).items()))
    row = targets.lookup(artifact.target)
    if row.on_onnxruntime and row.device == "cpu":
        return _fused_by_onnxruntime(artifact.file(MODEL))
    return None


def _fused_by_tensorrt(artifact: Artifact) -> dict[str, int]:
    from exporter.engines.audit import audit
    from exporter.engines.layers import read_layers
    from exporter.engines.record import LAYERS

    found = audit(read_layers(artifact.file(LAYERS)))
    counts = {f"convolutions in {name}": n for name, n in sorted(found.precisions().items())}
    counts["adds that left INT8"] = sum(add.left_int8 for add in found.adds)
    counts["convolutions and adds not told"] = len(found.untold())
    counts["shortcuts without Q/DQ"] = sum(len(add.without_qdq) for add in found.adds)
    counts["split grouped convolutions"] = len(found.split)
    return counts


def _fused_by_onnxruntime(file: Path) -> dict[str, int]:
    """Count the ops that are left after onnxruntime's fusions.

    It runs only up to the extended optimizations. The next level changes the memory layout, which
    depends on the CPU, but a baseline must hold on every CPU.
    """
    import onnx
    import onnxruntime as ort

    from exporter.targets.ort import NOT_THESE, PROVIDERS

    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    with tempfile.TemporaryDirectory(prefix="exporter-") as folder:
        options.optimized_model_filepath = str(Path(folder, "fused.onnx"))
        ort.InferenceSession(str(file), options, providers=PROVIDERS, disabled_optimizers=NOT_THESE)
        graph = onnx.load(options.optimized_model_filepath, load_external_data=False).graph
    return dict(sorted(Counter(node.op_type for node in graph.node).items()))
