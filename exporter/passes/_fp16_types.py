"""Decide which type each node of a graph computes in, before anything is changed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import onnx_ir as ir

from exporter.passes._fp16_rules import MOVING, reach_of, reason_for_fp32
from exporter.passes._signature import read_signature
from exporter.passes.constants import constant_array, graphs_in
from exporter.passes.qdq import is_op, producer_of

FLOAT, HALF = ir.DataType.FLOAT, ir.DataType.FLOAT16


@dataclass(frozen=True)
class Formals:
    """The positions of a node's inputs and outputs that follow its type."""

    inputs: frozenset[int]
    outputs: frozenset[int]


@dataclass(frozen=True)
class Plan:
    """The type that each node computes in.

    Attributes:
        opset: the graph's opset.
        floats: the values that were float32.
        kinds: FP16 or FP32, in graph order; nodes that take any type (Q, DQ, Shape) have none.
        reasons: the nodes that must stay FP32 (Q and DQ too), with the reason.
    """

    opset: int
    floats: frozenset[ir.Value]
    kinds: Mapping[ir.Node, ir.DataType]
    reasons: Mapping[ir.Node, str]

    def formals(self, node: ir.Node) -> Formals:
        """Return the positions that share a type variable with an output or with input 0.

        They follow the node's type. All others stay FP32, such as the scales of a Resize, which
        have a fixed type.
        """
        signature = read_signature(node, self.opset)
        if signature is None:
            return Formals(frozenset(), frozenset())
        variables = {each for each in signature.outputs if signature.may_be_half(each)}
        first = signature.inputs[:1]
        variables.update(each for each in first if signature.may_be_half(each))
        return Formals(
            frozenset(i for i, each in enumerate(signature.inputs) if each in variables),
            frozenset(i for i, each in enumerate(signature.outputs) if each in variables),
        )


def plan_types(model: ir.Model, amax: Mapping[str, float], io: ir.DataType) -> Plan:
    """Decide the types without changing the graph.

    Args:
        model: the types of all tensors must have been inferred.
        amax: largest magnitude of activations, by name. Any may be missing.
        io: FP16 or FP32 for graph inputs and outputs.
    """
    graph, opset = model.graph, model.opset_imports[""]
    values = [*graph.inputs, *graph.initializers.values()]
    values += [value for node in graph for value in node.outputs]
    reach = reach_of(graph, amax)
    reasons = {}
    for node in graph:
        reason = reason_for_fp32(node, opset, reach)
        if reason is not None:
            reasons[node] = reason
    kinds = {
        node: FLOAT if node in reasons else HALF
        for node in graph
        if not _takes_any_type(node, opset)
    }
    for node in _between_fp32(kinds, io):
        kinds[node] = FLOAT
    floats = frozenset(value for value in values if value.dtype == FLOAT)
    return Plan(opset, floats, kinds, reasons)


def _takes_any_type(node: ir.Node, opset: int) -> bool:
    """Whether a node has no type of its own: Q, DQ, and ops such as Shape."""
    if graphs_in(node):
        return False
    if is_op(node, "QuantizeLinear") or is_op(node, "DequantizeLinear"):
        return True
    if any(value.dtype == FLOAT for value in node.outputs):
        return is_op(node, "Constant")
    floats = [i for i, value in enumerate(node.inputs) if value and value.dtype == FLOAT]
    signature = read_signature(node, opset)
    halves = signature is None or all(signature.may_be_half(signature.inputs[i]) for i in floats)
    return len(floats) <= 1 and halves  # IsInf has an FP16 form from opset 20 on


def _between_fp32(kinds: Mapping[ir.Node, ir.DataType], io: ir.DataType) -> list[ir.Node]:
    """Return the moving nodes between neighbors that are FP32 or take any type."""
    moving = [n for n in kinds if n.op_type in MOVING and n.domain == "" and kinds[n] == HALF]
    after: set[ir.Node] = set()
    for node in moving:
        given = (v for v in node.inputs if v is not None and v.dtype == FLOAT)
        if all(_is_float(v, kinds, after, io) for v in given):
            after.add(node)
    before: set[ir.Node] = set()
    for node in reversed(moving):
        users = (user for value in node.outputs for user in value.consumers())
        returned = any(value.is_graph_output() for value in node.outputs)
        if all(kinds.get(user, FLOAT) == FLOAT or user in before for user in users) and not (
            returned and io == HALF
        ):
            before.add(node)
    return [node for node in moving if node in after and node in before]


def _is_float(
    value: ir.Value, kinds: Mapping[ir.Node, ir.DataType], after: set[ir.Node], io: ir.DataType
) -> bool:
    if constant_array(value) is not None or producer_of(value, "DequantizeLinear") is not None:
        return True
    producer = value.producer()
    if producer is None:
        return io == FLOAT
    return kinds.get(producer) == FLOAT or producer in after
