"""Read linear nodes: find their weight and bias, and scale the weight by channel."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import onnx_ir as ir

from exporter.passes.constants import Array, constant_array, is_overridable

Side = Literal["inputs", "outputs"]

_LINEAR_OPS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})


@dataclass(frozen=True)
class Linear:
    """A Conv, ConvTranspose, Gemm or MatMul, and the layout of its output.

    Attributes:
        node: the node; its input 1 is the weight.
        channels: number of output channels.
        axis: axis of the channels in the output; -1 is the last.
        rank: rank of the output; None if unknown (a MatMul of unknown input).
    """

    node: ir.Node
    channels: int
    axis: int
    rank: int | None


@dataclass(frozen=True)
class Parameters:
    """A linear node's constants.

    Attributes:
        weight: as stored in the node.
        bias: the effective bias, including beta, float64 of shape [channels] or []; None if there
            is none.
    """

    weight: Array
    bias: Array | None


def read_linear(node: ir.Node) -> Linear | None:
    """Describe a linear node; return None for others, and if the weight's shape is unknown."""
    if node.domain != "" or node.op_type not in _LINEAR_OPS or node.inputs[1] is None:
        return None
    shape = node.inputs[1].shape
    if shape is None or not shape.is_static() or len(shape) < 2:
        return None
    sizes = shape.numpy()
    if node.op_type == "Conv":
        return Linear(node, sizes[0], axis=1, rank=len(sizes))
    if node.op_type == "ConvTranspose":
        return Linear(node, sizes[1] * _groups(node), axis=1, rank=len(sizes))
    if node.op_type == "Gemm":
        return Linear(node, sizes[0 if _is_b_transposed(node) else 1], axis=-1, rank=2)
    return _read_matmul(node, sizes)


def _read_matmul(node: ir.Node, sizes: tuple[int, ...]) -> Linear | None:
    if len(sizes) != 2:
        return None  # a batch of matrices, as in attention
    shapes = [value.shape for value in (node.outputs[0], node.inputs[0]) if value is not None]
    rank = next((len(shape) for shape in shapes if shape is not None), None)
    return Linear(node, sizes[1], axis=-1, rank=rank)


def read_parameters(linear: Linear) -> Parameters | str:
    """Return the weight and bias, or why they can't be changed."""
    value = linear.node.inputs[1]
    weight = constant_array(value)
    if weight is None:
        return "weights are a graph input" if is_overridable(value) else "weights aren't constant"
    if not np.issubdtype(weight.dtype, np.floating):
        return f"weights are {weight.dtype}, not float"
    bias = _read_bias(linear)
    return bias if isinstance(bias, str) else Parameters(weight, bias)


def _read_bias(linear: Linear) -> Array | str | None:
    value = bias_value(linear.node)
    if value is None:
        return None
    bias = constant_array(value)
    if bias is None:
        return "bias is a graph input" if is_overridable(value) else "bias isn't constant"
    if any(size != 1 for size in bias.shape[:-1]):
        return "bias varies along another axis than channels"
    beta = linear.node.attributes.get_float("beta", 1.0)  # only a Gemm has one
    return bias.astype(np.float64).reshape(bias.shape[-1:]) * beta


def bias_value(node: ir.Node) -> ir.Value | None:
    """Return the bias input; None if there is none."""
    return node.inputs[2] if len(node.inputs) > 2 else None


def scale_weight(linear: Linear, weight: Array, scale: Array, side: Side = "outputs") -> Array:
    """Return the weight times `scale` ([channels] or []) along one side's channels, float64."""
    view, axes = _by_channel(linear, weight.astype(np.float64), side)
    shape = [size if axis in axes else 1 for axis, size in enumerate(view.shape)]
    factors = np.broadcast_to(scale, (math.prod(shape),)).reshape(shape)
    return np.asarray((view * factors).reshape(weight.shape))


def input_channels(linear: Linear) -> int:
    """Return how many channels the node reads."""
    weight = linear.node.inputs[1]
    assert weight is not None
    assert weight.shape is not None
    rows, columns = weight.shape.numpy()[:2]
    if linear.node.op_type == "Conv":
        return columns * _groups(linear.node)
    return columns if _is_b_transposed(linear.node) else rows


def channel_amax(linear: Linear, weight: Array, side: Side) -> Array:
    """Return the largest magnitude of the weights by channel of one side, float64 [channels]."""
    view, axes = _by_channel(linear, np.abs(weight.astype(np.float64)), side)
    others = tuple(axis for axis in range(view.ndim) if axis not in axes)
    return np.asarray(view.max(axis=others, initial=0)).ravel()


def _by_channel(linear: Linear, weight: Array, side: Side) -> tuple[Array, tuple[int, ...]]:
    """Return the weight, reshaped, and the axes that together count the channels, in order."""
    node, groups = linear.node, _groups(linear.node)
    outputs = side == "outputs"
    if node.op_type in ("Conv", "ConvTranspose"):
        # [Cout, Cin/groups, k...] or [Cin, Cout/groups, k...]: the rows are sorted by group, and
        # each group has its own columns.
        if outputs == (node.op_type == "Conv"):
            return weight, (0,)
        return weight.reshape(groups, -1, *weight.shape[1:]), (0, 2)
    return weight, (0 if outputs == _is_b_transposed(node) else 1,)


def _groups(node: ir.Node) -> int:
    return int(node.attributes.get_int("group", 1))


def _is_b_transposed(node: ir.Node) -> bool:
    return bool(node.attributes.get_int("transB", 0))  # only a Gemm has one
