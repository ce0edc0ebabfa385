"""What the passes share: reading constants, replacing them, naming."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

Array = npt.NDArray[Any]


def label(node: ir.Node) -> str:
    """How reports name a node: its name or, as names are optional in ONNX, its first output's."""
    return node.name or node.outputs[0].name or node.op_type


def is_overridable(value: ir.Value | None) -> bool:
    """Whether the value is an initializer that is a graph input too: only a default."""
    return value is not None and value.is_initializer() and value.is_graph_input()


def constant_array(value: ir.Value | None) -> Array | None:
    """The array of an initializer or a Constant node.

    Args:
        value: any value, or None for an input left out.

    Returns:
        The array, to be read only, or None where the value isn't constant; an initializer that is
        a graph input as well isn't, as the caller may feed another.
    """
    if value is None or value.is_graph_input():
        return None
    node = value.producer()
    if value.is_initializer() or (node is not None and node.op_type == "Constant"):
        tensor = ir.convenience.get_const_tensor(value)
        return None if tensor is None else tensor.numpy()
    return None


def used_once(value: ir.Value) -> bool:
    """Whether one node reads the value, once, and the graph doesn't return it."""
    return len(value.uses()) == 1 and not value.is_graph_output()


def unique_name(graph: ir.Graph, hint: str) -> str:
    """`hint`, or `hint_1`, `hint_2`... where a value of that name is in the graph already."""
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
    """Make input `index` of the node the given constant.

    An initializer that only this node uses keeps its name and gets the new array; else a new one
    is registered, named after `hint`.
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
    """Remove initializers and Constant nodes that nothing uses; graph inputs and outputs stay."""
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
