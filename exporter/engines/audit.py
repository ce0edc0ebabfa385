"""The fusion audit: what an engine really runs in INT8, and where a missing Q/DQ prevents it.

An INT8 graph says what may run in INT8. Only the engine's own record says what does. The audit
uses only the types in the record, never the order of layers:

- A convolution is INT8 if its weights and an input are. Only if the record lacks these types does
  the audit use the name of the kernel.
- A residual Add stays INT8 if both summands arrive as INT8. A floating-point summand that doesn't
  come from a DequantizeLinear is a shortcut without Q/DQ. It forces the Add, and the layer that
  feeds it, out of INT8. A summand from a DequantizeLinear has its Q/DQ. The layer after the Add
  then needs floating point, usually the pooling before the classifier, and nothing is wrong.
- A reformat that the graph doesn't request moves memory and computes nothing.

Placement rules: NVIDIA TensorRT documentation, "Working with Quantized Types", "Q/DQ Placement
Recommendations".
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from exporter.engines.layers import Layer, Tensor
from exporter.errors import ExporterError

Reason = Literal[
    "",
    "shortcut has no Q/DQ",
    "its convolution is not INT8",
    "its result is not quantized",
    "the record lacks its types",
]
MISSING: Reason = "shortcut has no Q/DQ"
FLOAT_CONVOLUTION: Reason = "its convolution is not INT8"
FLOAT_RESULT: Reason = "its result is not quantized"
NOT_TOLD: Reason = "the record lacks its types"
_FLOATS = ("FP16", "FP32", "BF16")

# Patterns for kernel names, most specific first: an INT8 kernel may also name its result's type.
_TACTICS = (
    (re.compile(r"e4m3|fp8"), "FP8"),
    (re.compile(r"i8i8|i8f32|i8f16|i8816|i16832|int8|imma"), "INT8"),
    (re.compile(r"f16f16|fp16|h884|h1688|h16816|hmma"), "FP16"),
    (re.compile(r"f32f32|tf32|sgemm|scudnn|s884|s1688"), "FP32"),
)
_ADDS = re.compile(r"\biPlus\b|\bkSUM\b|\bSUM\b")
_ADD_NODE = re.compile(r"(^|/)(residual_)?add(_?\d+)?$", re.IGNORECASE)


@dataclass(frozen=True)
class Convolution:
    """One convolution, its precision, and the facts that the precision was read from."""

    layer: str
    precision: str
    weights: str | None
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    groups: int | None
    tactic: str | None
    time_ms: float | None


@dataclass(frozen=True)
class Shortcut:
    """A floating-point summand of an Add."""

    tensor: str
    precision: str
    made_by: str | None


@dataclass(frozen=True)
class Add:
    """One residual Add.

    Attributes:
        layer: the engine's layer that computes it.
        node: the ONNX node; None if the names don't tell.
        fused: whether it is fused into a convolution.
        output: precision of its result.
        left_int8: whether a summand or the result is in floating point.
        reason: why it left INT8.
        without_qdq: the summands that lack Q/DQ.
        time_ms: time of its layer, in milliseconds.
    """

    layer: str
    node: str | None
    fused: bool
    output: str
    left_int8: bool
    reason: Reason
    without_qdq: tuple[Shortcut, ...]
    time_ms: float | None


@dataclass(frozen=True)
class Reformat:
    """A layer that only changes type or layout. ``asked``: whether the graph's Q or DQ needs it."""

    layer: str
    source: str
    result: str
    asked: bool
    time_ms: float | None


@dataclass(frozen=True)
class SplitConvolution:
    """A grouped convolution that the engine doesn't run as one grouped convolution."""

    node: str
    layers: tuple[str, ...]
    reason: str


@dataclass(frozen=True)
class Audit:
    """Everything that :func:`audit` found.

    ``opaque`` names the compiled regions, whose layers no record lists. ``hidden`` counts the
    graph's convolutions that must be inside them; it is 0 if there is no graph. ``times`` are
    in milliseconds per inference, slowest layer first; empty without a profile.
    """

    layers: int
    convolutions: tuple[Convolution, ...]
    adds: tuple[Add, ...]
    reformats: tuple[Reformat, ...]
    split: tuple[SplitConvolution, ...]
    opaque: tuple[str, ...]
    hidden: int
    times: tuple[tuple[str, str, float], ...]

    def precisions(self) -> dict[str, int]:
        """Count the convolutions by precision."""
        return dict(Counter(row.precision for row in self.convolutions).most_common())

    def untold(self) -> list[str]:
        """List the convolutions and adds for which the record has no types."""
        rows = [row.layer for row in self.convolutions if row.precision == "unknown"]
        return rows + [row.node or row.layer for row in self.adds if row.reason == NOT_TOLD]

    def objections(self) -> list[str]:
        """List why this engine may not run in INT8 throughout; empty if it does."""
        if not self.convolutions:
            inside = f" outside {len(self.opaque)} compiled regions" if self.opaque else ""
            return [f"the record shows no convolution{inside}, so none is known to run in INT8"]
        wrong = [
            f"{row.layer} runs in {row.precision}"
            for row in self.convolutions
            if row.precision != "INT8"
        ]
        if self.hidden:
            wrong.append(
                f"{self.hidden} convolutions are inside {len(self.opaque)} compiled regions, so "
                "their precision is unknown"
            )
        wrong += [
            f"{row.node or row.layer} left INT8: {shortcut.tensor} ({shortcut.precision}), made "
            f"by {shortcut.made_by or 'an input of the engine'}, has no Q/DQ"
            for row in self.adds
            for shortcut in row.without_qdq
        ]
        wrong += [
            f"{row.node or row.layer}: {NOT_TOLD}; for an engine with open shapes, TensorRT tells "
            "them only if all shapes are set (exporter compile sets them)"
            for row in self.adds
            if row.reason == NOT_TOLD
        ]
        return wrong

    def as_json(self) -> dict[str, Any]:
        """Return it as JSON values."""
        values = asdict(self)
        values["times"] = [
            {"layer": name, "kind": kind, "time_ms": time_ms} for name, kind, time_ms in self.times
        ]
        return {
            **values,
            "precisions": self.precisions(),
            "int8": {"ok": not self.objections(), "objections": self.objections()},
        }


def audit(
    layers: Sequence[Layer],
    times: Mapping[str, float] | None = None,
    groups: Mapping[str, int] | None = None,
) -> Audit:
    """Audit an engine's layers.

    Args:
        layers: from :func:`exporter.engines.layers.read_layers`.
        times: milliseconds by layer name, from :func:`exporter.engines.layers.read_times`.
        groups: the graph's Conv nodes with their ``group``, if there is a graph.

    Raises:
        ExporterError: the times belong to another engine.
    """
    times = times or {}
    if times and not any(layer.name in times for layer in layers):
        raise ExporterError(
            "the profile has no layer of this engine", hint="give the profile of this engine"
        )
    made_by = {tensor.name: layer for layer in layers for tensor in layer.outputs}
    opaque = tuple(row.name for row in layers if row.is_opaque)
    visible = sum(row.is_convolution for row in layers)
    timed = [(row.name, row.kind, times[row.name]) for row in layers if row.name in times]
    return Audit(
        layers=len(layers),
        convolutions=tuple(
            _convolution(row, times.get(row.name)) for row in layers if row.is_convolution
        ),
        adds=tuple(
            add
            for row in layers
            if (add := _try_add(row, made_by, times.get(row.name))) is not None
        ),
        reformats=tuple(
            Reformat(
                row.name,
                ", ".join(tensor.layout for tensor in row.inputs),
                ", ".join(tensor.layout for tensor in row.outputs),
                (row.origin or "").upper() == "QDQ" or "quantize" in row.kind.lower(),
                times.get(row.name),
            )
            for row in layers
            if row.is_reformat
        ),
        split=tuple(_split(layers, groups or {})),
        opaque=opaque,
        hidden=max(0, len(groups or {}) - visible) if opaque else 0,
        times=tuple(sorted(timed, key=lambda row: -row[2])),
    )


def convolution_precision(layer: Layer) -> str:
    """Return the precision in which a convolution computes: "INT8", "FP16"..., or "unknown".

    If no input is INT8, INT8 weights are only a storage format: it computes in the input's type.
    """
    inputs = {tensor.precision for tensor in layer.inputs}
    told = bool(inputs) and "unknown" not in inputs
    if told and layer.weights is not None:
        if layer.weights in inputs:
            return layer.weights
        (alone,) = inputs if len(inputs) == 1 else ("",)
        return alone if alone in _FLOATS else "unknown"
    if told and len(inputs) == 1:
        return next(iter(inputs))
    tactic = (layer.tactic or "").lower()
    return next((name for pattern, name in _TACTICS if pattern.search(tactic)), "unknown")


def _convolution(layer: Layer, time_ms: float | None) -> Convolution:
    return Convolution(
        layer.name,
        convolution_precision(layer),
        layer.weights,
        tuple(tensor.precision for tensor in layer.inputs),
        tuple(tensor.precision for tensor in layer.outputs),
        layer.groups,
        layer.tactic,
        time_ms,
    )


def _try_add(layer: Layer, made_by: Mapping[str, Layer], time_ms: float | None) -> Add | None:
    """Read the Add of a layer, if it computes one on two activations."""
    summands = _summands(layer)
    if not summands:
        return None
    without = tuple(_shortcuts(summands, made_by))
    output = layer.outputs[0].precision
    left = output in _FLOATS or any(tensor.precision in _FLOATS for tensor in summands)
    reason: Reason = "" if not left else MISSING if without else FLOAT_RESULT
    if left and layer.is_convolution and convolution_precision(layer) != "INT8":
        # For a floating-point convolution, we can't tell its own input from the summand.
        reason, without = FLOAT_CONVOLUTION, ()
    if not left and "unknown" in (output, *(tensor.precision for tensor in summands)):
        reason = NOT_TOLD
    node = next((node for node in layer.nodes if _ADD_NODE.search(node)), None)
    return Add(layer.name, node, layer.is_convolution, output, left, reason, without, time_ms)


def _shortcuts(summands: Sequence[Tensor], made_by: Mapping[str, Layer]) -> Iterator[Shortcut]:
    """Yield the floating-point summands that don't come from a DequantizeLinear."""
    for tensor in summands:
        maker = _maker(tensor, made_by)
        if tensor.precision in _FLOATS and not (maker and maker.dequantizes):
            yield Shortcut(tensor.name, tensor.precision, maker.name if maker else None)


def _summands(layer: Layer) -> tuple[Tensor, ...]:
    """Return the inputs that an Add may sum: those with the shape of its result.

    A convolution reads its weights and one activation. If it reads another input with the shape of
    its result, it adds that. If a convolution is INT8, its own input is INT8, so a floating-point
    input is a summand.
    """
    if not layer.outputs or len(layer.inputs) < 2 or layer.is_reformat:
        return ()
    shape = layer.outputs[0].shape
    alike = tuple(tensor for tensor in layer.inputs if tensor.shape == shape)
    if layer.is_convolution:
        return alike
    adds = _ADDS.search(layer.operations) or any(_ADD_NODE.search(node) for node in layer.nodes)
    return alike if adds and len(alike) > 1 else ()


def _maker(tensor: Tensor, made_by: Mapping[str, Layer]) -> Layer | None:
    """Find the layer that made a tensor, skipping layers that only change the layout."""
    seen: set[str] = set()
    maker = made_by.get(tensor.name)
    while maker and maker.is_reformat and not maker.dequantizes and maker.name not in seen:
        seen.add(maker.name)
        if len(maker.inputs) != 1:
            break
        maker = made_by.get(maker.inputs[0].name)
    return maker


def _split(layers: Sequence[Layer], groups: Mapping[str, int]) -> list[SplitConvolution]:
    """Find grouped convolutions that run as several layers, or with another number of groups."""
    found = []
    of_node: dict[str, list[Layer]] = {}
    for layer in (row for row in layers if row.is_convolution):
        for node in layer.nodes:
            of_node.setdefault(node, []).append(layer)
    for node, group in groups.items():
        rows = of_node.get(node, []) if group > 1 else []
        names = tuple(row.name for row in rows)
        if len(rows) > 1:
            reason = f"{group} groups run as {len(rows)} layers"
            found.append(SplitConvolution(node, names, reason))
        elif rows and rows[0].groups not in (group, None):
            reason = f"{group} groups run as {rows[0].groups}"
            found.append(SplitConvolution(node, names, reason))
    return found
