"""Functions that the passes share: reading and replacing constants, and naming."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

Array = npt.NDArray[Any]


def label(node: ir.Node) -> str:
    """Return a node's name for reports, or its first output's, since ONNX names are optional."""
    return node.name or node.outputs[0].name or node.op_type


def is_overridable(value: ir.Value | None) -> bool:
    """Whether the value is an initializer and also a graph input, so that it is only a default."""
    return value is not None and value.is_initializer() and value.is_graph_input()


def constant_array(value: ir.Value | None) -> Array | None:
    """Return the array of an initializer or a Constant node.

    Args:
        value: any value, or None for an omitted input.

    Returns:
        The array, read-only, or None if the value isn't constant. An initializer that is also a
        graph input isn't constant, because the caller may feed another value.
    """
    if value is None or value.is_graph_input():
        return None
    node = value.producer()
    if value.is_initializer() or (node is not None and node.op_type == "Constant"):
        tensor = ir.convenience.get_const_tensor(value)
        return None if tensor is None else tensor.numpy()
    return None


def graphs_in(node: ir.Node) -> list[ir.Graph]:
    """Return the graphs inside a node: the bodies of a loop or the branches of an If."""
    attributes = (each for each in node.attributes.values() if isinstance(each, ir.Attr))
    found = []
    for attribute in attributes:
        if attribute.type == ir.AttributeType.GRAPH:
            found.append(attribute.as_graph())
        elif attribute.type == ir.AttributeType.GRAPHS:
            found.extend(attribute.as_graphs())
    return found


def used_once(value: ir.Value) -> bool:
    """Whether the value is read exactly once and is not a graph output."""
    return len(value.uses()) == 1 and not value.is_graph_output()


def unique_name(graph: ir.Graph, hint: str) -> str:
    """Return `hint`, or `hint_1`, `hint_2`... if the graph already has a value of that name."""
    taken = {value.name for value in graph.inputs} | set(graph.initializers)
    taken.update(output.name for node in graph.all_nodes() for output in node.outputs)
    name, count = hint, 0
    while name in taken:
        count += 1
        name = f"{hint}_{count}"
    return name


def add_initializer(graph: ir.Graph, array: Array, name: str) -> ir.Value:
    """Register a new initializer; `name` must be free (see `unique_name`)."""
    value = ir.Value(name=name)
    _assign(value, array)
    graph.register_initializer(value)
    return value


def set_constant_input(node: ir.Node, index: int, array: Array, hint: str) -> None:
    """Make the given constant the node's input `index`.

    If only this node uses the old initializer, that keeps its name and gets the new array.
    Otherwise a new one is registered, named after `hint`.
    """
    graph = node.graph
    assert graph is not None
    if len(node.inputs) <= index:
        node.resize_inputs(index + 1)
    old = node.inputs[index]
    if old is not None and old.is_initializer() and not old.is_graph_input() and used_once(old):
        _assign(old, array)
        return
    node.replace_input_with(index, add_initializer(graph, array, unique_name(graph, hint)))
    _drop_if_unused(graph, old)


def drop_unused_constants(graph: ir.Graph) -> None:
    """Remove unused initializers and Constant nodes; graph inputs and outputs stay."""
    for value in tuple(graph.initializers.values()):
        _drop_if_unused(graph, value)
    for node in tuple(graph):
        if node.op_type == "Constant":
            _drop_if_unused(graph, node.outputs[0])


def _assign(value: ir.Value, array: Array) -> None:
    tensor = ir.Tensor(np.ascontiguousarray(array).reshape(array.shape), name=value.name)
    value.const_value = tensor
    value.shape = ir.Shape(array.shape)
    value.type = ir.TensorType(tensor.dtype)


def _drop_if_unused(graph: ir.Graph, value: ir.Value | None) -> None:
    if value is None or value.uses() or value.is_graph_output() or value.is_graph_input():
        return
    node = value.producer()
    if value.is_initializer() and value.name is not None:
        graph.initializers.pop(value.name, None)
    elif node is not None and node.op_type == "Constant" and node.graph is graph:
        graph.remove(node, safe=True)
