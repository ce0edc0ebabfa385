"""Make Q and DQ nodes, and read them back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from calibration.formats import E4M3_LARGEST
from exporter.passes.constants import Array, add_initializer, constant_array


@dataclass(frozen=True)
class Quantization:
    """The constants of a Q or DQ node.

    Attributes:
        scale: float, 0-d or one per channel.
        zero_point: in the quantized type and the scale's shape; 0 if the node has none.
        dtype: type of the quantized side; None if unknown.
        axis: axis of the channels; not used for a 0-d scale.
    """

    scale: Array
    zero_point: Array
    dtype: ir.DataType | None
    axis: int

    @property
    def is_float(self) -> bool:
        """Whether the quantized side is FP8."""
        return self.dtype == ir.DataType.FLOAT8E4M3FN

    @property
    def per_tensor(self) -> bool:
        """Whether one scale serves all elements."""
        return self.scale.size == 1

    def same_scale(self, other: Quantization) -> bool:
        """Whether both map integers to the same reals."""
        return np.array_equal(self.scale.ravel(), other.scale.ravel()) and np.array_equal(
            self.zero_point.ravel(), other.zero_point.ravel()
        )


def read_quantization(node: ir.Node) -> Quantization | None:
    """Return the constants of a Q or DQ; None for other nodes, and if the scale isn't constant."""
    if not (is_op(node, "QuantizeLinear") or is_op(node, "DequantizeLinear")):
        return None
    scale = constant_array(node.inputs[1])
    if scale is None:
        return None
    given = node.inputs[2] if len(node.inputs) > 2 else None
    zero_point = constant_array(given)
    quantized = node.outputs[0] if node.op_type == "QuantizeLinear" else node.inputs[0]
    typed = quantized if given is None else given
    zeros = np.zeros(scale.shape, np.int8) if zero_point is None else zero_point
    return Quantization(
        scale, zeros, None if typed is None else typed.dtype, node.attributes.get_int("axis", 1)
    )


_LIMITS: Mapping[ir.DataType, tuple[float, float]] = {
    ir.DataType.INT8: (-128, 127),
    ir.DataType.UINT8: (0, 255),
    ir.DataType.INT32: (-(2**31), 2**31 - 1),
    ir.DataType.FLOAT8E4M3FN: (-E4M3_LARGEST, E4M3_LARGEST),
}


def limits_of(dtype: ir.DataType | None) -> tuple[float, float]:
    """Return the least and greatest number of a quantized type; INT8's if the type is unknown."""
    return _LIMITS.get(dtype or ir.DataType.INT8, _LIMITS[ir.DataType.INT8])


def is_op(node: ir.Node | None, op_type: str) -> bool:
    """Whether the node is that op from ONNX's own domain."""
    return node is not None and node.op_type == op_type and node.domain == ""


def producer_of(value: ir.Value | None, op_type: str) -> ir.Node | None:
    """Return the node that produces the value, if it is that op."""
    node = None if value is None else value.producer()
    return node if is_op(node, op_type) else None


class Builder:
    """Adds named constants and Q and DQ nodes to a graph; a taken name gets a number."""

    def __init__(self, graph: ir.Graph) -> None:
        """Note the names that are taken."""
        self._graph = graph
        self._taken = {value.name for value in graph.inputs} | set(graph.initializers)
        self._taken.update(out.name for node in graph.all_nodes() for out in node.outputs)

    def constant(self, array: Array, hint: str) -> ir.Value:
        """Add a new initializer."""
        return add_initializer(self._graph, array, self._free(hint))

    def quantize(self, value: ir.Value, scale: ir.Value, zero_point: ir.Value) -> ir.Node:
        """Make a per-tensor Q of the value, not yet in the graph."""
        node = ir.Node("", "QuantizeLinear", [value, scale, zero_point])
        return self._finish(node, f"{value.name}_quantized", zero_point.dtype, value.shape)

    def dequantize(
        self, value: ir.Value, scale: ir.Value, zero_point: ir.Value | None, hint: str, axis: int
    ) -> ir.Node:
        """Make a DQ of the value, not yet in the graph; `axis` is left out for a 0-d scale."""
        inputs = [value, scale] if zero_point is None else [value, scale, zero_point]
        node = ir.Node("", "DequantizeLinear", inputs, attributes_of(scale, axis))
        return self._finish(node, hint, scale.dtype, value.shape)

    def _finish(
        self, node: ir.Node, hint: str, dtype: ir.DataType | None, shape: ir.Shape | None
    ) -> ir.Node:
        result = node.outputs[0]
        result.name = self._free(hint)
        result.shape = shape
        result.type = None if dtype is None else ir.TensorType(dtype)
        node.name = f"{result.name}/{node.op_type}"
        return node

    def _free(self, hint: str) -> str:
        name, count = hint, 0
        while name in self._taken:
            count += 1
            name = f"{hint}_{count}"
        self._taken.add(name)
        return name


def attributes_of(scale: ir.Value, axis: int) -> list[ir.Attr]:
    """Return the axis attribute if there is one scale per channel."""
    return [ir.AttrInt64("axis", axis)] if scale.shape is not None and len(scale.shape) else []
