"""Convert a graph to FP16, with every tensor's type written out for strongly typed builders."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal

import numpy as np
import onnx_ir as ir

from exporter.errors import WrongUse
from exporter.passes import LAYER_KEY, Kept, PassReport
from exporter.passes._fp16_rules import SATURATING, is_bounded
from exporter.passes._fp16_types import FLOAT, HALF, Plan, plan_types
from exporter.passes.constants import (
    Array,
    add_initializer,
    constant_array,
    drop_unused_constants,
    graphs_in,
    label,
    unique_name,
)
from exporter.passes.half import LARGEST, to_half
from exporter.passes.qdq import is_op, producer_of
from exporter.passes.raise_opset import HALF_OPSET

_NOT_MEASURED: Mapping[str, float] = MappingProxyType({})


def tensors_to_measure(model: ir.Model) -> list[str]:
    """Return the float32 tensors to measure for whether FP16 can hold them, in graph order.

    A tensor is left out if its bound follows from another's, such as the output of an op that only
    moves elements.
    """
    values = [value for value in model.graph.inputs if value.uses()]
    for node in model.graph:
        if not is_bounded(node) and not is_op(node, "Constant"):
            values.extend(node.outputs)
    return [str(value.name) for value in values if value.name and value.dtype == FLOAT]


class ToFp16(ir.passes.InPlacePass):
    """Give every float32 tensor of a graph the type FP16, except where accuracy would suffer.

    The result needs no flags: all inputs of a node agree in type. A Cast stands wherever FP16 and
    FP32 meet, one per tensor and direction. Constants are not cast. They are stored in the type of
    their reader, rounded once from float32. A DequantizeLinear returns its reader's type (set by
    its scale's type), because a Cast after it would prevent INT8 kernels from fusing. The integers
    of INT8 weights don't change. The scale of a Q/DQ pair is rounded in both, so that they agree.

    These nodes stay FP32, with the reason in `report.kept`: softmaxes, means, sums,
    normalizations and ops that magnify rounding errors (`_fp16_rules.KEPT_OPS`); nodes with a
    constant or a measured tensor that over- or underflows; Q and DQ if their scale does; loops and
    branches, with all that is inside. Ops that
    only move elements between two such nodes stay FP32 too, which saves two Casts. Graph inputs
    and outputs stay FP32 unless `io` is FP16.

    It must not fire on a graph that has FP16 already. Types of all tensors must have been inferred.

    Attributes:
        report: report of the latest call; `applied` names the nodes that are FP16 now.
    """

    def __init__(
        self, amax: Mapping[str, float] = _NOT_MEASURED, io: Literal["fp32", "fp16"] = "fp32"
    ) -> None:
        """Take the measured magnitudes.

        Args:
            amax: largest magnitude of activations by name. If one is missing, its bound is taken
                from others and from quantization scales, or else is unknown.
            io: the type for graph inputs and outputs that were float32.
        """
        self.report = PassReport("to_fp16")
        self._amax, self._io = amax, HALF if io == "fp16" else FLOAT

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Decide for every node, then write types and Casts in graph order.

        Raises:
            WrongUse: the opset is older than 19, or a type is unknown.
        """
        self.report = PassReport("to_fp16")
        _refuse(model)
        if _has_half(model.graph):
            self.report.kept.append(Kept(str(model.graph.name), "has FP16 already"))
            return ir.passes.PassResult(model, modified=False)
        plan = plan_types(model, self._amax, self._io)
        for node, reason in plan.reasons.items():
            self.report.kept.append(Kept(label(node), reason))
        self.report.applied.extend(label(n) for n, kind in plan.kinds.items() if kind == HALF)
        _Typing(model.graph, plan, self._io).write()
        return ir.passes.PassResult(model, modified=_has_half(model.graph))


def _has_half(graph: ir.Graph) -> bool:
    values = [*graph.inputs, *(value for node in graph for value in node.outputs)]
    return any(value.dtype == HALF for value in values)


def _refuse(model: ir.Model) -> None:
    opset = model.opset_imports.get("", 1)
    if opset < HALF_OPSET:
        raise WrongUse(
            f"the graph has opset {opset}, but FP16 needs opset {HALF_OPSET}",
            hint="apply RaiseOpset",
        )
    for node in model.graph:
        for value in node.outputs:
            if value.name and value.dtype is None:
                raise WrongUse(f"the type of tensor {value.name!r} isn't known")


class _Typing:
    """Edits one graph by a plan, and shares casts, constants and DQ between readers."""

    def __init__(self, graph: ir.Graph, plan: Plan, io: ir.DataType) -> None:
        self._graph, self._plan, self._io = graph, plan, io
        self._made: dict[tuple[ir.Value, ir.DataType], ir.Value] = {}
        self._halves: dict[ir.Value, ir.Value] = {}
        self._rounded: dict[ir.Value, ir.Value] = {}
        self._settled: dict[ir.Node, ir.DataType] = {}
        self._scales = {node: node.inputs[1] for node in graph if _is_qdq(node)}

    def write(self) -> None:
        """Type inputs, then each node after those that feed it, then outputs."""
        for value in self._graph.inputs:
            if value in self._plan.floats:
                value.type = ir.TensorType(self._io)
        for node in tuple(self._graph):
            if is_op(node, "QuantizeLinear"):
                self._write_quantize(node)
            elif node in self._plan.kinds:
                self._write_node(node, self._plan.kinds[node])
        for index, value in enumerate(tuple(self._graph.outputs)):
            if value in self._plan.floats:
                self._write_output(index, value)
        drop_unused_constants(self._graph)
        for old, new in self._halves.items():
            if str(old.name) not in self._graph.initializers:
                new.name = old.name

    def _write_node(self, node: ir.Node, kind: ir.DataType) -> None:
        formals = self._plan.formals(node)
        for index, value in enumerate(tuple(node.inputs)):
            if value is not None and value in self._plan.floats:
                wanted = kind if index in formals.inputs else FLOAT
                node.replace_input_with(index, self._as(value, wanted, node))
        for index, value in enumerate(node.outputs):
            if value in self._plan.floats and index in formals.outputs:
                value.type = ir.TensorType(kind)
        for inner in graphs_in(node):
            self._keep_captured(inner, node)
        if is_op(node, "Cast"):
            node.attributes.add(ir.AttrInt64("to", int(kind)))

    def _keep_captured(self, inner: ir.Graph, outer: ir.Node) -> None:
        """Give the nodes inside a loop or branch what they read from outside in FP32."""
        for node in inner.all_nodes():
            for index, value in enumerate(tuple(node.inputs)):
                if value is not None and value in self._plan.floats:
                    node.replace_input_with(index, self._as(value, FLOAT, outer))
        for index, value in enumerate(tuple(inner.outputs)):
            if value in self._plan.floats:
                inner.outputs[index] = self._as(value, FLOAT, outer)

    def _write_quantize(self, node: ir.Node) -> None:
        """Let a Q take its input's type, which saves a Cast, unless its scale must be FP32."""
        value = node.inputs[0]
        assert value is not None
        flexible = producer_of(value, "DequantizeLinear") is not None
        kind = FLOAT if constant_array(value) is not None else HALF if flexible else value.dtype
        kind = FLOAT if node in self._plan.reasons or kind != HALF else HALF
        node.replace_input_with(0, self._as(value, kind, node))
        node.replace_input_with(1, self._scale(node, kind))

    def _write_output(self, index: int, value: ir.Value) -> None:
        given = self._as(value, self._io, value.producer())
        if given is value:
            return
        name = str(value.name)
        self._graph.outputs[index] = given
        value.name = unique_name(self._graph, f"{name}_{_suffix(value.dtype)}")
        given.name = name

    def _as(self, value: ir.Value, wanted: ir.DataType, reader: ir.Node | None) -> ir.Value:
        """Return the value in the wanted type."""
        array = constant_array(value)
        if array is not None:
            return value if wanted == FLOAT else self._half(value, array, reader)
        dequantize = producer_of(value, "DequantizeLinear")
        if dequantize is not None:
            value = self._dequantized(dequantize, value, wanted)
        if value.dtype == wanted:
            return value
        if (value, wanted) not in self._made:
            self._made[value, wanted] = self._cast(value, wanted, reader)
        return self._made[value, wanted]

    def _half(self, value: ir.Value, array: Array, reader: ir.Node | None = None) -> ir.Value:
        if value not in self._halves:
            if reader is not None and reader.op_type in SATURATING:
                array = np.clip(array, -LARGEST, LARGEST)
            name = unique_name(self._graph, f"{value.name}_fp16")
            self._halves[value] = add_initializer(self._graph, to_half(array), name)
        return self._halves[value]

    def _cast(self, value: ir.Value, wanted: ir.DataType, reader: ir.Node | None) -> ir.Value:
        node = ir.Node("", "Cast", [value], [ir.AttrInt64("to", int(wanted))])
        producer = value.producer()
        self._name(node, value, wanted, producer or reader)
        if producer is None:
            self._graph.insert_before(self._graph[0], node)
        else:
            self._graph.insert_after(producer, node)
        return node.outputs[0]

    def _dequantized(self, node: ir.Node, value: ir.Value, wanted: ir.DataType) -> ir.Value:
        """Return a DQ's output in the wanted type, from a second DQ if the first has another."""
        wanted = FLOAT if node in self._plan.reasons else wanted
        if self._settled.setdefault(node, wanted) == wanted:
            node.replace_input_with(1, self._scale(node, wanted))
            value.type = ir.TensorType(wanted)
            return value
        if (value, wanted) not in self._made:
            twin = ir.Node("", "DequantizeLinear", node.inputs, list(node.attributes.values()))
            twin.replace_input_with(1, self._scale(node, wanted))
            self._name(twin, value, wanted, node)
            self._graph.insert_after(node, twin)
            self._made[value, wanted] = twin.outputs[0]
        return self._made[value, wanted]

    def _scale(self, node: ir.Node, wanted: ir.DataType) -> ir.Value:
        """Return the scale of a Q or DQ in a type; both of a pair get the same number."""
        scale = self._scales[node]
        array = constant_array(scale)
        assert scale is not None
        if array is None:
            return scale
        if wanted == HALF:
            return self._half(scale, array)
        is_pair = is_op(node, "QuantizeLinear") or producer_of(node.inputs[0], "QuantizeLinear")
        if not is_pair or node in self._plan.reasons:
            return scale
        if scale not in self._rounded:
            name = unique_name(self._graph, f"{scale.name}_fp32")
            rounded = to_half(array).astype(np.float32)
            self._rounded[scale] = add_initializer(self._graph, rounded, name)
        return self._rounded[scale]

    def _name(
        self, node: ir.Node, value: ir.Value, wanted: ir.DataType, origin: ir.Node | None
    ) -> None:
        result = node.outputs[0]
        result.name = unique_name(self._graph, f"{value.name}_{_suffix(wanted)}")
        result.shape, result.type = value.shape, ir.TensorType(wanted)
        node.name = f"{result.name}/{node.op_type}"
        layer = None if origin is None else origin.metadata_props.get(LAYER_KEY)
        if layer is not None:
            node.metadata_props[LAYER_KEY] = layer


def _is_qdq(node: ir.Node) -> bool:
    return is_op(node, "QuantizeLinear") or is_op(node, "DequantizeLinear")


def _suffix(dtype: ir.DataType | None) -> str:
    return "fp16" if dtype == HALF else "fp32"
