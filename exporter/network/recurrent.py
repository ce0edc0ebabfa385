"""Recurrent layers: Keras unrolls them into a While loop, which tf2onnx makes an LSTM or a Loop.

tf2onnx recognizes a plain LSTM, also a bidirectional one, if its weights are constants. Everything
else (GRU, SimpleRNN, ConvLSTM, masks) becomes a Loop.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from exporter.errors import ConversionError

if TYPE_CHECKING:
    import onnx

    from exporter.network.sources import Source

_LOOPS = ("While", "StatelessWhile")
_PASS_ON = ("Identity", "Cast", "Enter")


def has_loop(graph_def: Any) -> bool:
    """Return whether a TensorFlow graph or one of its functions has a loop."""
    functions = (function.node_def for function in graph_def.library.function)
    return any(node.op in _LOOPS for nodes in (graph_def.node, *functions) for node in nodes)


def fed_to_loops(graph_def: Any) -> set[str]:
    """Return the names of the nodes whose values go into a loop unchanged, such as its weights."""
    nodes = {node.name: node for node in graph_def.node}
    waiting = [name for node in graph_def.node if node.op in _LOOPS for name in node.input]
    found: set[str] = set()
    while waiting:
        name = waiting.pop().split(":")[0].removeprefix("^")
        if name not in found and name in nodes:
            found.add(name)
            if nodes[name].op in _PASS_ON:
                waiting += nodes[name].input
    return found


def refuse_stateful(source: Source) -> None:
    """Refuse layers that remember their state from one call to the next: an engine does not.

    Raises:
        ConversionError: the error names the layers.
    """
    layers = source.model._flatten_layers() if source.is_keras else ()
    stateful = [layer.name for layer in layers if getattr(layer, "stateful", False)]
    if stateful:
        raise ConversionError(
            f"{source.name} can't be converted: {', '.join(stateful)} keeps its state between "
            "calls, and an engine keeps nothing",
            hint="build it with stateful=False, or with the state as an input and an output "
            "(initial_state, return_state)",
        )


def drop_list_shapes(proto: onnx.ModelProto) -> None:
    """Remove the second input of Identity nodes, which ONNX doesn't have.

    tf2onnx 1.17 turns the TensorListFromTensor before a loop into an Identity, and forgets to
    remove the list's shape.
    """
    for graph in graphs_of(proto.graph):
        for node in graph.node:
            if node.op_type == "Identity":
                del node.input[1:]


def graphs_of(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """Yield a graph and all graphs inside its nodes."""
    yield graph
    for attribute in (attribute for node in graph.node for attribute in node.attribute):
        for inner in (attribute.g, *attribute.graphs):
            if inner.node:
                yield from graphs_of(inner)
