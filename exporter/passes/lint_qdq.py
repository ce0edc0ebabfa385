"""Check a quantized graph against a scheme: errors for a runtime, and fusions it would miss."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import onnx_ir as ir

from exporter.passes import LAYER_KEY
from exporter.passes.constants import label, used_once
from exporter.passes.placement import (
    LINEAR_OPS,
    fuses_with_add,
    fuses_with_producer,
    residual_inputs,
    weight_axis,
)
from exporter.passes.qdq import Quantization, is_op, producer_of, read_quantization
from exporter.passes.schemes import Scheme

Severity = Literal["error", "warning"]
_SCALE_TYPES = (np.dtype(np.float32), np.dtype(np.float16))


@dataclass(frozen=True)
class Finding:
    """One defect.

    Attributes:
        node: the node's name.
        rule: a key of `RULES`.
        severity: error: a runtime rejects the graph or computes something else, or a fusion that
            the scheme relies on can't happen; warning: it costs speed, or may do so.
        message: what is wrong.
        layer: the Keras layer that the node came from, if known.
    """

    node: str
    rule: str
    severity: Severity
    message: str
    layer: str | None = None

    def __str__(self) -> str:
        """Return the node, the layer and the message in one line."""
        layer = f" (Keras layer {self.layer!r})" if self.layer else ""
        return f"{self.node}{layer}: {self.message}"


Rule = Callable[[ir.Node, Scheme], Iterator[tuple[Severity, str]]]


def lint_qdq(model: ir.Model, scheme: Scheme) -> list[Finding]:
    """Return all findings in graph order, an empty list if there are none. Changes nothing."""
    return [
        Finding(label(node), name, severity, message, keras_layer(node))
        for node in model.graph
        for name, rule in RULES.items()
        for severity, message in rule(node, scheme)
    ]


def keras_layer(node: ir.Node) -> str | None:
    """Return a node's Keras layer; for a node that a pass added, the nearest one around it."""
    for step in (_before, _behind):
        reached: ir.Node | None = node
        while reached is not None:
            if LAYER_KEY in reached.metadata_props:
                return reached.metadata_props[LAYER_KEY]
            reached = step(reached)
    return None


def _before(node: ir.Node) -> ir.Node | None:
    source = node.inputs[0] if node.inputs else None
    return None if source is None else source.producer()


def _behind(node: ir.Node) -> ir.Node | None:
    users = node.outputs[0].consumers() if node.outputs else ()
    return users[0] if users else None


def _scale(node: ir.Node, scheme: Scheme) -> Iterator[tuple[Severity, str]]:
    """Every scale is a positive, finite constant."""
    if not (is_op(node, "QuantizeLinear") or is_op(node, "DequantizeLinear")):
        return
    found = read_quantization(node)
    if found is None:
        yield "error", "its scale isn't constant"
    elif not (np.isfinite(found.scale).all() and (found.scale > 0).all()):
        yield "error", "a scale isn't positive and finite"
    elif found.scale.dtype not in _SCALE_TYPES:
        yield "error", f"its scale is {found.scale.dtype}, but runtimes read float32 or float16"


def _opset(node: ir.Node, scheme: Scheme) -> Iterator[tuple[Severity, str]]:
    """Q and DQ of the graph's opset support the scheme's types."""
    if not (is_op(node, "QuantizeLinear") or is_op(node, "DequantizeLinear")):
        return
    opset = None if node.graph is None else node.graph.opset_imports.get("")
    if opset is not None and opset < scheme.opset:
        yield "error", f"opset {opset} has no {scheme.activation}; it needs opset {scheme.opset}"


def _zero_point(node: ir.Node, scheme: Scheme) -> Iterator[tuple[Severity, str]]:
    """Zero points are 0 in a symmetric scheme, and always for weights."""
    found = read_quantization(node)
    if found is None or not found.zero_point.any():
        return
    if _is_weight_side(node):
        yield "error", "the zero point of a weight isn't 0"
    elif scheme.symmetric:
        yield "error", f"its zero point isn't 0, but the {scheme.name} scheme needs 0"


def _activation(node: ir.Node, scheme: Scheme) -> Iterator[tuple[Severity, str]]:
    """Each activation has one scale and the scheme's dtype."""
    found = read_quantization(node)
    if found is None or _is_weight_side(node):
        return
    if not found.per_tensor:
        yield "error", f"an activation has {found.scale.size} scales, but runtimes take only one"
    if found.dtype is not None and found.dtype != ir.DataType.from_numpy(scheme.dtype):
        yield "error", f"the activation is {found.dtype.name}, not {scheme.activation}"


def _pair(node: ir.Node, scheme: Scheme) -> Iterator[tuple[Severity, str]]:
    """A Q is read by DQ nodes with the same constants, and by nothing else."""
    if not is_op(node, "QuantizeLinear"):
        return
    users = node.outputs[0].consumers()
    if not users:
        yield "error", "no DequantizeLinear follows it"
    for user in users:
        if not is_op(user, "DequantizeLinear"):
            yield "error", f"it is read by {label(user)}, which isn't a DequantizeLinear"
        elif not _same(read_quantization(node), read_quantization(user)):
            yield "error", f"its scale or zero point differs from that of {label(user)}"


def _before_activation(node: ir.Node, scheme: Scheme) -> Iterator[tuple[Severity, str]]:
    """No pair stands between a linear node or Add and the activation function that fuses with it.

    If other nodes read the value too, they need the pair, and nothing could fuse even without it.
    """
    value = node.inputs[0] if node.inputs else None
    source = _before_pair(value)
    if value is None or source is None or not (used_once(value) and used_once(source)):
        return
    producer = source.producer()
    linear = producer is not None and producer.op_type in LINEAR_OPS | {"Add"}
    if producer is not None and linear and fuses_with_producer(node, scheme):
        yield "error", f"a Q/DQ pair separates it from {label(producer)}, so they can't fuse"


def _residual(node: ir.Node, scheme: Scheme) -> Iterator[tuple[Severity, str]]:
    """An Add has the pairs that its scheme needs, all of one dtype."""
    branches = residual_inputs(node)
    if branches is None:
        return
    pairs = [producer_of(value, "DequantizeLinear") for value in branches]
    found = [None if pair is None else read_quantization(pair) for pair in pairs]
    if len({each.dtype for each in found if each is not None}) > 1:
        yield "error", "its inputs have different integer types"
    missing = pairs.count(None)
    if missing == 2 and (not scheme.shortcut_only or any(map(fuses_with_add, branches))):
        yield "warning", "its shortcut has no Q/DQ pair, so the sum runs in float"
    elif missing == 1 and not scheme.shortcut_only:
        yield "warning", "one input has no Q/DQ pair, so the sum runs in float"
    elif missing == 0 and scheme.shortcut_only and any(map(_is_conv_branch, branches)):
        yield "warning", "its convolution's branch has a Q/DQ pair too, so they can't fuse"


def _concat(node: ir.Node, scheme: Scheme) -> Iterator[tuple[Severity, str]]:
    """The inputs of a Concat share a scale if its output is to be integers."""
    if not is_op(node, "Concat"):
        return
    found = [_quantization_of(value) for value in node.inputs]
    known = [each for each in found if each is not None]
    integers = scheme.symmetric and _quantizers(node.outputs[0])
    severity: Severity = "error" if integers else "warning"
    if known and len(known) < len(found):
        yield severity, "only some of its inputs have a Q/DQ pair"
    if any(not each.same_scale(known[0]) for each in known):
        yield severity, "its inputs have different scales, so each is quantized again"


def _max_pool(node: ir.Node, scheme: Scheme) -> Iterator[tuple[Severity, str]]:
    """A MaxPool's input and output share a scale, so that it can run on integers."""
    if not is_op(node, "MaxPool") or "MaxPool" not in scheme.shared:
        return
    before = _quantization_of(node.inputs[0])
    behind = [read_quantization(user) for user in _quantizers(node.outputs[0])]
    if any(not _same(before, each) for each in behind):
        yield "warning", "the scales before and after it differ, so it runs in float"


def _weight(node: ir.Node, scheme: Scheme) -> Iterator[tuple[Severity, str]]:
    """Both input and weight of a linear node are quantized, the weight along output channels."""
    if node.op_type not in LINEAR_OPS or node.domain != "":
        return
    pair = producer_of(node.inputs[1], "DequantizeLinear")
    has_input = producer_of(node.inputs[0], "DequantizeLinear") is not None
    if pair is None:
        return
    if not has_input:
        yield "warning", "its weight is quantized but its input isn't, so it runs in float"
    found = read_quantization(pair)
    wanted = ir.DataType.from_numpy(scheme.weight_dtype)
    if found is not None and found.dtype not in (None, wanted):
        yield "error", f"its weight is {found.dtype.name}, not {scheme.weight}"
    given = node.inputs[0] and node.inputs[0].dtype
    if None not in (given, pair.outputs[0].dtype) and given != pair.outputs[0].dtype:
        yield "error", f"its input is {given} and its weight {pair.outputs[0].dtype}"
    if found is None or found.per_tensor:
        return
    shape, axis = node.inputs[1] and pair.inputs[0] and pair.inputs[0].shape, weight_axis(node)
    rank = len(shape) if shape else 0
    if found.axis % max(rank, 1) != axis:
        yield "error", f"its weight has scales along axis {found.axis}, not {axis}"
    elif shape and found.scale.size != shape[axis]:
        yield "error", f"it has {found.scale.size} scales for {shape[axis]} output channels"


RULES: dict[str, Rule] = {
    "scale": _scale,
    "opset": _opset,
    "zero-point": _zero_point,
    "activation": _activation,
    "pair": _pair,
    "before-activation": _before_activation,
    "residual": _residual,
    "concat": _concat,
    "max-pool": _max_pool,
    "weight-axis": _weight,
}
"""The rules by name, in the order in which they are applied to each node."""


def _is_weight_side(node: ir.Node) -> bool:
    """Whether a Q or DQ belongs to a constant: a weight or a bias."""
    value = node.inputs[0]
    quantize = producer_of(value, "QuantizeLinear")
    value = value if quantize is None else quantize.inputs[0]
    return value is not None and value.is_initializer()


def _before_pair(value: ir.Value | None) -> ir.Value | None:
    """Return the input of the Q/DQ pair that produces the value; None if there is no pair."""
    dequantize = producer_of(value, "DequantizeLinear")
    quantize = None if dequantize is None else producer_of(dequantize.inputs[0], "QuantizeLinear")
    return None if quantize is None else quantize.inputs[0]


def _is_conv_branch(value: ir.Value) -> bool:
    source = _before_pair(value)
    producer = None if source is None else source.producer()
    if source is None or producer is None or producer.op_type not in ("Conv", "ConvTranspose"):
        return False
    # The convolution's only reader is the Q, and the DQ's only reader is the Add.
    return len(source.uses()) == 1 and len(value.uses()) == 1


def _quantization_of(value: ir.Value | None) -> Quantization | None:
    pair = producer_of(value, "DequantizeLinear")
    return None if pair is None else read_quantization(pair)


def _quantizers(value: ir.Value) -> list[ir.Node]:
    return [user for user in value.consumers() if is_op(user, "QuantizeLinear")]


def _same(first: Quantization | None, second: Quantization | None) -> bool:
    return first is not None and second is not None and first.same_scale(second)
