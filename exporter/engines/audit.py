"""The fusion audit: what an engine really runs in INT8, and where a missing Q/DQ cost it.

An INT8 graph says what may run in INT8; only the engine's own record says what does. Read here,
from types alone and never from the order of layers:

- a convolution is INT8 when its weights and an input are; its kernel's name is asked only where
  the record does not tell these;
- a residual Add stays INT8 when both summands arrive as INT8. A floating-point summand that no
  DequantizeLinear made is a shortcut without Q/DQ: it forces the Add, and what feeds it, out of
  INT8. One that a DequantizeLinear made has its Q/DQ; then what follows the Add wants floating
  point, usually the pooling before the classifier, and nothing is amiss;
- a reformat that the graph did not ask for moves memory and computes nothing.

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
    "its result is not quantised",
    "the record does not tell its types",
]
MISSING: Reason = "shortcut has no Q/DQ"
FLOAT_CONVOLUTION: Reason = "its convolution is not INT8"
FLOAT_RESULT: Reason = "its result is not quantised"
NOT_TOLD: Reason = "the record does not tell its types"
_FLOATS = ("FP16", "FP32", "BF16")

# Of kernels' names, most telling first: an INT8 kernel may name the type of its result too.
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
    """One convolution and what its precision was read from."""

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
        node: the ONNX node, None where the names don't tell.
        fused: whether a convolution computes it on the way.
        output: the precision of its result.
        left_int8: whether it is computed on, or into, floating point.
        reason: why it left INT8.
        without_qdq: the summands that lack Q/DQ.
        time_ms: of its layer.
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
    """A layer that only changes type or layout; ``asked`` where Q or DQ of the graph wants it."""

    layer: str
    source: str
    result: str
    asked: bool
    time_ms: float | None


@dataclass(frozen=True)
class SplitConvolution:
    """A grouped convolution that the engine does not run as one."""

    node: str
    layers: tuple[str, ...]
    reason: str


@dataclass(frozen=True)
class Audit:
    """All that :func:`audit` found.

    ``opaque`` names compiled regions, whose inside no record tells, and ``hidden`` counts the
    graph's convolutions that must be in them; 0 where the graph is not at hand. Times are
    milliseconds per inference, slowest layer first; empty without a profile.
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
        """What the record leaves open: convolutions and adds whose types it does not have."""
        rows = [row.layer for row in self.convolutions if row.precision == "unknown"]
        return rows + [row.node or row.layer for row in self.adds if row.reason == NOT_TOLD]

    def objections(self) -> list[str]:
        """Why this engine is not known to be an INT8 engine; empty where it is one."""
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
                f"{self.hidden} convolutions are inside {len(self.opaque)} compiled regions, where "
                "nothing tells what they run in"
            )
        wrong += [
            f"{row.node or row.layer} left INT8: {shortcut.tensor} ({shortcut.precision}), made "
            f"by {shortcut.made_by or 'an input of the engine'}, has no Q/DQ"
            for row in self.adds
            for shortcut in row.without_qdq
        ]
        wrong += [
            f"{row.node or row.layer}: {NOT_TOLD}; those of an engine of open shapes are told once "
            "all shapes are set (exporter compile does so)"
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
    """Read an engine's layers.

    Args:
        layers: from :func:`exporter.engines.layers.read_layers`.
        times: milliseconds by layer name, from :func:`exporter.engines.layers.read_times`.
        groups: the graph's Conv nodes with their ``group``, where the graph is at hand.

    Raises:
        ExporterError: the times are of another engine.
    """
    times = times or {}
    if times and not any(layer.name in times for layer in layers):
        raise ExporterError(
            "the profile names no layer of this engine", hint="give the profile of this engine"
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
    """Tell in what a convolution computes: "INT8", "FP16"..., or "unknown".

    INT8 weights with no INT8 input are stored small and computed in the input's type.
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
        # Nothing tells a floating-point convolution's own input from what it adds.
        reason, without = FLOAT_CONVOLUTION, ()
    if not left and "unknown" in (output, *(tensor.precision for tensor in summands)):
        reason = NOT_TOLD
    node = next((node for node in layer.nodes if _ADD_NODE.search(node)), None)
    return Add(layer.name, node, layer.is_convolution, output, left, reason, without, time_ms)


def _shortcuts(summands: Sequence[Tensor], made_by: Mapping[str, Layer]) -> Iterator[Shortcut]:
    """Yield the floating-point summands that no DequantizeLinear made."""
    for tensor in summands:
        maker = _maker(tensor, made_by)
        if tensor.precision in _FLOATS and not (maker and maker.dequantizes):
            yield Shortcut(tensor.name, tensor.precision, maker.name if maker else None)


def _summands(layer: Layer) -> tuple[Tensor, ...]:
    """Return what an Add sums, less a fused convolution's own input where types tell it apart.

    Beside its weights a convolution reads one activation; a second of its result's shape is
    what it adds. An INT8 convolution's own input is INT8, so a floating-point one is a summand.
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
    """Find the layer that made a tensor, looking through changes of layout."""
    seen: set[str] = set()
    maker = made_by.get(tensor.name)
    while maker and maker.is_reformat and not maker.dequantizes and maker.name not in seen:
        seen.add(maker.name)
        if len(maker.inputs) != 1:
            break
        maker = made_by.get(maker.inputs[0].name)
    return maker


def _split(layers: Sequence[Layer], groups: Mapping[str, int]) -> list[SplitConvolution]:
    """Find grouped convolutions that run as several layers, or as an ungrouped one."""
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
