"""Find the nodes that can't be FP16, with the reason: op, constants or measured activations."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import onnx_ir as ir

from exporter.passes._signature import read_signature
from exporter.passes.constants import constant_array, graphs_in
from exporter.passes.half import (
    FINEST,
    LARGEST,
    SMALLEST_NORMAL,
    UNIT_ROUNDOFF,
    overflows,
    underflow,
)
from exporter.passes.placement import LINEAR_OPS, weight_axis
from exporter.passes.qdq import is_op, limits_of, producer_of, read_quantization
from exporter.passes.schemes import LAYOUT

HEADROOM = 4.0
"""How many times larger an activation may become than on any calibration image. The images, some
hundreds, are only a sample. The factor takes two of FP16's thirty binary exponents."""

_SUM = "a mean or sum of many elements: in FP16 it overflows or stops growing"
_SOFTMAX = "a softmax: exponentials, and a sum of them"
_NORM = "normalizes by statistics of many elements"
_RECURRENT = "a recurrence: each step adds its rounding errors to those before"
_STEEP = "magnifies the rounding error of inputs, near 0 or when large, without bound"
# fmt: off
KEPT_OPS: Mapping[str, str] = {
    **dict.fromkeys(("Softmax", "LogSoftmax"), _SOFTMAX),
    **dict.fromkeys((
        "CumSum", "GlobalAveragePool", "GlobalLpPool", "ReduceL1", "ReduceL2", "ReduceLogSum",
        "ReduceLogSumExp", "ReduceMean", "ReduceProd", "ReduceSum", "ReduceSumSquare",
    ), _SUM),
    **dict.fromkeys((
        "BatchNormalization", "GroupNormalization", "InstanceNormalization",
        "LayerNormalization", "LRN", "LpNormalization", "MeanVarianceNormalization",
    ), _NORM),
    **dict.fromkeys(("GRU", "LSTM", "RNN"), _RECURRENT),
    **dict.fromkeys(("Acosh", "Atanh", "Exp", "Log", "Pow", "Reciprocal", "Sqrt", "Tan"), _STEEP),
}
MOVING = LAYOUT | {
    "Clip", "Concat", "Expand", "Gather", "GlobalMaxPool", "Identity", "MaxPool", "Relu", "Slice",
    "Split", "Tile",
}
"""Ops that return elements of their inputs, or bounds. They are exact in any type, so they take
the type of their neighbors."""
_BOUNDED = MOVING | {
    "AveragePool", "Dropout", "GlobalAveragePool", "LeakyRelu", "QuantizeLinear", "ReduceMean",
    "ReduceMax",
}
# fmt: on
SATURATING = frozenset({"Clip"})
"""Ops whose constants are bounds. A bound beyond FP16's range becomes the end of that range."""

Reach = Mapping[ir.Value, float]


def is_bounded(node: ir.Node) -> bool:
    """Whether no output of the node is larger than its largest input."""
    slope = node.attributes.get_float("alpha", 0.01) if node.op_type == "LeakyRelu" else 0.0
    return node.domain == "" and node.op_type in _BOUNDED and abs(slope) <= 1


def reach_of(graph: ir.Graph, amax: Mapping[str, float]) -> Reach:
    """Return how large each tensor may get: as measured, plus headroom, or by scale or inputs.

    Args:
        graph: its values still have the names that were measured.
        amax: the largest magnitude of tensors, by name, on calibration images.

    Returns:
        The largest magnitude of the values for which it is known.
    """
    found: dict[ir.Value, float] = {}
    values = [*graph.inputs, *(value for node in graph for value in node.outputs)]
    for value in values:
        node = value.producer()
        if node is not None and is_op(node, "DequantizeLinear"):
            if not _is_constant(node.inputs[0]):
                found[value] = _largest(node)  # the Q clips here, so no headroom is needed
        elif str(value.name) in amax:
            found[value] = HEADROOM * amax[str(value.name)]
        elif node is not None and is_bounded(node):
            sources = [each for each in node.inputs if each and not _is_constant(each)]
            if sources and all(each in found for each in sources):
                joined = _largest_constant(node) if node.op_type == "Concat" else 0.0
                found[value] = max(joined, *(found[each] for each in sources))
    return found


def reason_for_fp32(node: ir.Node, opset: int, reach: Reach) -> str | None:
    """Return why a node must compute in FP32; None if FP16 is good enough.

    Underflow in a linear node's weights is allowed up to the error that rounding the channel's
    output to FP16 makes anyway. That is 2**-11 of the largest value that the channel can reach,
    and at least 2**-25. The channel can reach the sum of its weights' magnitudes times the
    largest input (1 if it was not measured), plus the bias. So a channel whose weights training
    has driven to almost zero keeps no node in FP32.
    """
    if is_op(node, "QuantizeLinear") or is_op(node, "DequantizeLinear"):
        return scale_reason(node)
    by_op = _reason_of_op(node, opset)
    if by_op is not None:
        return by_op
    for reason in (*_of_constants(node, reach), *_of_activations(node, reach)):
        return reason
    return None


def scale_reason(node: ir.Node) -> str | None:
    """Return why the scale of a Q or DQ can't be FP16; None if it can."""
    scale = constant_array(node.inputs[1])
    if scale is None:
        return "its scale isn't constant"
    if float(scale.min()) < SMALLEST_NORMAL:
        return f"its scale {float(scale.min()):.2g} is below FP16's normal range"
    largest = _largest(node)
    return f"its values reach {largest:.3g}, over 65504" if largest > LARGEST else None


def _largest(node: ir.Node) -> float:
    """Return the largest magnitude that a Q or DQ represents; infinite if its scale is unknown."""
    found = read_quantization(node)
    if found is None or found.dtype is None:
        return float("inf")
    low, high = limits_of(found.dtype)
    return float(found.scale.max()) * max(high, -low)


def _reason_of_op(node: ir.Node, opset: int) -> str | None:
    if node.domain == "" and node.op_type in KEPT_OPS:
        return KEPT_OPS[node.op_type]
    if graphs_in(node):
        return f"a {node.op_type}: what is inside it stays FP32"
    if is_op(node, "Div") and not _is_constant(node.inputs[1]):
        return _STEEP
    signature = read_signature(node, opset)
    if signature is None:
        return f"{node.op_type} is no op of ONNX opset {opset}"
    for value, formal in zip(node.outputs, signature.outputs, strict=True):
        if value.dtype == ir.DataType.FLOAT and not signature.may_be_half(formal):
            return f"ONNX has no FP16 form of {node.op_type} at opset {opset}"
    floats = [v for v in node.inputs if v is not None and v.dtype == ir.DataType.FLOAT]
    makes = any(value.dtype == ir.DataType.FLOAT for value in node.outputs)
    if floats and not makes and not signature.may_be_half(signature.inputs[0]):
        return f"ONNX has no FP16 form of {node.op_type} at opset {opset}"
    if not floats and not is_op(node, "Cast") and not is_op(node, "Constant"):
        return "makes FP32 by itself" if makes else None
    return None


def _of_activations(node: ir.Node, reach: Reach) -> Iterator[str]:
    for value in (*node.inputs, *node.outputs):
        if value is None or value.dtype != ir.DataType.FLOAT or value not in reach:
            continue
        if reach[value] > LARGEST:
            yield f"tensor {value.name!r} may reach {reach[value]:.3g}; FP16 ends at 65504"
        elif 0 < reach[value] < SMALLEST_NORMAL:
            yield f"tensor {value.name!r} stays below {reach[value]:.2g}: FP16 underflows"


def _of_constants(node: ir.Node, reach: Reach) -> Iterator[str]:
    if node.domain == "" and node.op_type in SATURATING:
        return
    for value in node.inputs:
        array = constant_array(value)
        if value is None or array is None or value.dtype != ir.DataType.FLOAT:
            continue
        if overflows(array):
            yield f"constant {value.name!r} has {float(np.abs(array).max()):.3g}, over 65504"
        elif array.size == 1 and underflow(array).item() > UNIT_ROUNDOFF * abs(array.item()):
            yield f"constant {value.name!r} is {array.item():.2g}, an epsilon that would vanish"
    if node.op_type in LINEAR_OPS and node.domain == "":
        yield from _of_weights(node, reach)


def _of_weights(node: ir.Node, reach: Reach) -> Iterator[str]:
    dequantize = producer_of(node.inputs[1], "DequantizeLinear")
    if dequantize is not None:
        reason = scale_reason(dequantize)
        if reason is not None:
            yield f"weight: {reason}"
        return
    weight = constant_array(node.inputs[1])
    if weight is None or node.inputs[0] is None or weight.ndim < 2:
        return
    axis = weight_axis(node) % weight.ndim
    others = tuple(i for i in range(weight.ndim) if i != axis)
    largest = reach.get(node.inputs[0], 1.0)
    lost = underflow(weight).sum(axis=others) * largest
    reached = np.abs(weight.astype(np.float64)).sum(axis=others) * largest
    bias = constant_array(node.inputs[2]) if len(node.inputs) > 2 else None
    if bias is not None and bias.size in (1, lost.size):
        lost = lost + underflow(bias).ravel()
        reached = reached + np.abs(bias.astype(np.float64)).ravel()
    bad = lost > np.maximum(UNIT_ROUNDOFF * reached, FINEST)
    if bad.any():
        worst = int(np.argmax(np.where(bad, lost / np.maximum(reached, 1e-300), 0)))
        yield (
            f"weights underflow: {int(bad.sum())} of {bad.size} channels, channel {worst} loses "
            f"{lost[worst] / reached[worst]:.1%}"
        )


def _largest_constant(node: ir.Node) -> float:
    arrays = (constant_array(value) for value in node.inputs)
    return max((float(np.abs(a).max(initial=0)) for a in arrays if a is not None), default=0.0)


def _is_constant(value: ir.Value | None) -> bool:
    return value is None or constant_array(value) is not None
