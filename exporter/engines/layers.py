"""Read an engine's description of its layers: JSON from TensorRT's inspector or from trtexec.

``trtexec --exportLayerInfo`` writes what ``IEngineInspector::getEngineInformation`` returns.
``--exportProfile`` adds times. Both files may be untrusted. So this module checks their size,
shape and types, and removes characters that a terminal could interpret as commands.

Sources: TensorRT 10.16 documentation, "Engine Inspector". For 11.x we had no record; the sources
are "Migrating IEngineInspector Usage from TensorRT 10.x to 11.x" and the schema of NVIDIA's own
reader (github.com/NVIDIA/TensorRT, main, .agents/skills/trt-perf-analysis/schemas).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from exporter.errors import ExporterError
from exporter.untrusted import read_json_file

MOST_BYTES = 64_000_000
MOST_LAYERS = 100_000
_WHAT = "layer information: trtexec --profilingVerbosity=detailed --exportLayerInfo=FILE"
_PROFILE = "a profile: trtexec --exportProfile=FILE"

# How TensorRT writes a type: as a name ("Half"), or in a format ("Row major linear FP32").
_PRECISIONS = (
    (re.compile(r"\bint8\b", re.IGNORECASE), "INT8"),
    (re.compile(r"\buint8\b", re.IGNORECASE), "UINT8"),
    (re.compile(r"\b(fp16|half)\b", re.IGNORECASE), "FP16"),
    (re.compile(r"\b(bf16|bfloat16)\b", re.IGNORECASE), "BF16"),
    (re.compile(r"\b(fp32|float|tf32)\b", re.IGNORECASE), "FP32"),
    (re.compile(r"\bfp8\b", re.IGNORECASE), "FP8"),
    (re.compile(r"\b(fp4|int4)\b", re.IGNORECASE), "4-bit"),
    (re.compile(r"\bint(32|64)\b", re.IGNORECASE), "INT32"),
    (re.compile(r"\bbool\b", re.IGNORECASE), "BOOL"),
)
# 10.x has one field for both; 11.x splits it.
_TYPE_FIELDS = ("DataType", "Datatype", "Format/Datatype", "Format/DataType", "Format")
_OTHER_PROFILE = re.compile(r"\[profile +\d+\]")
_METADATA_NODE = re.compile(r"\[ONNX Layer: ([^\]]*)\]")
_REFORMATS = ("reformat", "quantize", "dequantize", "quantizelinear", "dequantizelinear")
_OPAQUE = ("kgen", "myelin", "foreignnode")


@dataclass(frozen=True)
class Tensor:
    """One input or output of a layer.

    Attributes:
        name: its name in the engine.
        shape: its dimensions; -1 for a dynamic one.
        precision: "INT8", "FP16", "FP32"...; "unknown" if the record doesn't say.
        layout: the record's text for type and layout.
    """

    name: str
    shape: tuple[int, ...]
    precision: str
    layout: str


@dataclass(frozen=True)
class Layer:
    """One layer of an engine, as recorded.

    Attributes:
        name: TensorRT's name, made of the names of the ONNX nodes fused into it.
        kind: TensorRT's layer type, such as "CaskConvolution".
        inputs: activations only; ``weights`` is about weights stored in the engine.
        outputs: its results.
        weights: precision of its weights; None if it has none or the record doesn't say.
        groups: a convolution's groups; None if the record doesn't say.
        tactic: the kernel's name; None if there is none.
        origin: for a reformat layer, "QDQ" if the graph's Q or DQ requires it.
        parameters: TensorRT's parameter type, such as "Convolution", or "".
        operations: a pointwise layer's operations, in TensorRT's words.
        nodes: the ONNX nodes in it, from its metadata or, without that, from its name.
    """

    name: str
    kind: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    weights: str | None = None
    groups: int | None = None
    tactic: str | None = None
    origin: str | None = None
    parameters: str = ""
    operations: str = ""
    nodes: tuple[str, ...] = ()

    @property
    def is_convolution(self) -> bool:
        """Whether it runs a convolution kernel, as TensorRT also does for many dense layers."""
        return "conv" in self.kind.lower() or "conv" in self.parameters.lower()

    @property
    def is_reformat(self) -> bool:
        """Whether it only changes type or layout."""
        return self.kind.lower() in _REFORMATS or self.parameters.lower() in _REFORMATS

    @property
    def is_opaque(self) -> bool:
        """Whether it is a compiled region. The record shows its inputs and outputs only."""
        return any(word in self.kind.lower() for word in _OPAQUE)

    @property
    def dequantizes(self) -> bool:
        """Whether it only turns INT8 into floating point."""
        return (
            self.is_reformat
            and any(tensor.precision == "INT8" for tensor in self.inputs)
            and all(tensor.precision in ("FP16", "FP32", "BF16") for tensor in self.outputs)
        )


def read_layers(path: Path) -> tuple[Layer, ...]:
    """Read an engine's layers for its first optimization profile.

    Raises:
        WrongUse: the file doesn't exist.
        ExporterError: the file is damaged, isn't layer information, or has no details.
    """
    content = read_json_file(path, _WHAT, most_bytes=MOST_BYTES)
    layers = content.get("Layers") if isinstance(content, dict) else content
    if not isinstance(layers, list) or not layers:
        raise ExporterError(f"{path} has no list 'Layers'", hint=f"it should be {_WHAT}")
    if len(layers) > MOST_LAYERS:
        raise ExporterError(f"{path} lists {len(layers)} layers, more than {MOST_LAYERS}")
    if all(isinstance(layer, str) for layer in layers):
        raise ExporterError(
            f"{path} has only layer names, as the engine was built without details",
            hint="build it with detailed profiling verbosity "
            "(trtexec --profilingVerbosity=detailed), and export its layers again",
        )
    read = [_layer(layer, f"{path}: layer {index}") for index, layer in enumerate(layers)]
    return tuple(layer for layer in read if not _OTHER_PROFILE.search(layer.name))


def read_times(path: Path) -> dict[str, float]:
    """Read a profile.

    Returns:
        Milliseconds per inference by layer name. Layers with the same name are summed.

    Raises:
        WrongUse: the file doesn't exist.
        ExporterError: the file is damaged or isn't a profile.
    """
    content = read_json_file(path, _PROFILE, most_bytes=MOST_BYTES)
    rows = content if isinstance(content, list) else []
    times: dict[str, float] = {}
    for row in rows:
        if not isinstance(row, dict):
            raise ExporterError(f"{path} is not {_PROFILE}")
        name = row.get("name")
        if name is None:  # the row that counts the iterations
            continue
        time_ms = _milliseconds(row.get("averageMs"))
        if not isinstance(name, str) or time_ms is None:
            raise ExporterError(f"{path} is not {_PROFILE}", hint="a row lacks its name or time")
        name = printable(name)
        times[name] = times.get(name, 0.0) + time_ms
    if not times:
        raise ExporterError(f"{path} is not {_PROFILE}", hint="it has no layer with a time")
    return times


def printable(text: str) -> str:
    """Replace characters that a terminal may interpret: escapes, line ends, direction marks."""
    return "".join(char if char.isprintable() else " " for char in text)


def precision_of(text: str) -> str:
    """Parse the precision from TensorRT's text for a type or format."""
    for pattern, precision in _PRECISIONS:
        if pattern.search(text):
            return precision
    return "unknown"


def _layer(record: Any, where: str) -> Layer:
    if not isinstance(record, dict):
        raise ExporterError(f"{where} is not a JSON object", hint=f"it should be {_WHAT}")
    name = _text(record, "Name", where)
    metadata = record.get("Metadata")
    # If a convolution is fused with pooling, its fields have other names.
    weights = record.get("Weights", record.get("ConvWeights"))
    groups = record.get("Groups", record.get("ConvGroups"))
    tactic = record.get("TacticName")
    origin = record.get("Origin")
    return Layer(
        name=name,
        kind=_text(record, "LayerType", where),
        inputs=_tensors(record, "Inputs", where),
        outputs=_tensors(record, "Outputs", where),
        weights=_weights(weights) or _largest(_tensors(record, "Constants", where)),
        groups=groups if type(groups) is int and groups > 0 else None,
        tactic=printable(tactic) if isinstance(tactic, str) and tactic else None,
        origin=printable(origin) if isinstance(origin, str) else None,
        parameters=printable(str(record.get("ParameterType", ""))),
        operations=printable(
            " ".join(str(record.get(key, "")) for key in ("Operations", "ParameterSubType"))
        ),
        nodes=_nodes(name, metadata if isinstance(metadata, str) else ""),
    )


def _weights(record: Any) -> str | None:
    kind = record.get("Type") if isinstance(record, dict) else None
    return precision_of(kind) if isinstance(kind, str) else None


def _largest(constants: tuple[Tensor, ...]) -> str | None:
    """Return the precision of the largest constant, the weights. Biases and scales are smaller."""
    if not constants:
        return None
    return max(constants, key=lambda tensor: math.prod(tensor.shape)).precision


def _tensors(record: Mapping[str, Any], key: str, where: str) -> tuple[Tensor, ...]:
    tensors = record.get(key, [])
    if not isinstance(tensors, list):
        raise ExporterError(f"{where}: {key!r} is not a list", hint=f"it should be {_WHAT}")
    return tuple(_tensor(tensor, f"{where}, {key}") for tensor in tensors)


def _tensor(record: Any, where: str) -> Tensor:
    if not isinstance(record, dict):
        raise ExporterError(f"{where}: a tensor is not a JSON object", hint=f"it should be {_WHAT}")
    shape = record.get("Dimensions", [])
    if not isinstance(shape, list) or not all(type(size) is int for size in shape):
        raise ExporterError(f"{where}: 'Dimensions' is not a list of integers")
    words = [record[key] for key in _TYPE_FIELDS if isinstance(record.get(key), str)]
    known = [found for found in map(precision_of, words) if found != "unknown"]
    return Tensor(
        _text(record, "Name", where),
        tuple(shape),
        known[0] if known else "unknown",
        printable(", ".join(words)),
    )


def _text(record: Mapping[str, Any], key: str, where: str) -> str:
    value = record.get(key)
    if not isinstance(value, str) or not value:
        raise ExporterError(f"{where} has no {key!r}", hint=f"it should be {_WHAT}")
    return printable(value)


def _nodes(name: str, metadata: str) -> tuple[str, ...]:
    """Return the names of the ONNX nodes. Without metadata, split the fused name at " + "."""
    if found := _METADATA_NODE.findall(metadata):
        return tuple(dict.fromkeys(printable(node) for node in found))
    parts = [re.sub(r"^(PWN\()+|\)+$", "", part.strip()) for part in name.split(" + ")]
    return tuple(dict.fromkeys(part for part in parts if part))


def _milliseconds(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 1e9:
        return None
    return float(value)
