"""Decide where a scheme needs Q/DQ pairs in a graph, and which of them share a scale."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from exporter.errors import unknown_name
from exporter.passes import Kept
from exporter.passes.constants import constant_array, is_overridable, label, used_once
from exporter.passes.linear import Linear, read_linear, read_parameters
from exporter.passes.schemes import LAYOUT, Scheme

LINEAR_OPS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
_NEVER_NEGATIVE = frozenset({"HardSigmoid", "Relu", "Sigmoid", "Softmax"})
_KEEPS_SIGN = LAYOUT | {"AveragePool", "Concat", "GlobalAveragePool", "MaxPool", "Resize"}


@dataclass(frozen=True)
class Placement:
    """What to quantize in one graph.

    Attributes:
        values: activations that get a pair, in graph order.
        linears: linear nodes to quantize: their weight and, in some schemes, their bias.
        groups: for each of `values`, all values that share its scale, itself included, in graph
            order.
        kept: linear nodes that stay in float, with the reason.
    """

    values: tuple[ir.Value, ...]
    linears: tuple[Linear, ...]
    groups: Mapping[ir.Value, tuple[ir.Value, ...]]
    kept: tuple[Kept, ...]
    scheme: Scheme

    def sources(self, value: ir.Value) -> tuple[ir.Value, ...]:
        """Return the tensors that the value's group selects or moves; their joint range is its."""
        members = self.groups[value]
        found = (source for member in members for source in _sources(member, self.scheme))
        return tuple(dict.fromkeys(found))

    def never_negative(self, value: ir.Value) -> bool:
        """Whether no tensor on the value's scale is ever negative."""
        return all(is_never_negative(member) for member in self.groups[value])


def place(model: ir.Model, scheme: Scheme, keep: Collection[str] = ()) -> Placement:
    """Decide where the pairs go, without changing the graph.

    Raises:
        WrongUse: a name in `keep` is not a node's.
    """
    nodes = [node for node in model.graph if node.domain == ""]
    _check_names(nodes, keep)
    linears, kept = _read_linears(nodes, scheme, keep)
    quantized = {linear.node for linear in linears}
    free = [node for node in nodes if label(node) not in keep]
    depths = _depths(nodes)
    # A convolution without a kernel can't fuse with an Add either.
    unfused = {*keep, *(each.node for each in kept)} if scheme.convolutions else keep
    wanted: set[ir.Value] = set()
    for node in free:
        if node.op_type not in LINEAR_OPS or node in quantized:
            wanted.update(_wanted_by(node, scheme, depths, unfused))
    moves = [node for node in free if shared_inputs(node, scheme)]
    _spread(moves, wanted, forward=bool(scheme.outputs))
    values = tuple(value for value in _in_order(model.graph) if value in wanted)
    return Placement(values, linears, _groups(moves, values, scheme), kept, scheme)


def shared_inputs(node: ir.Node, scheme: Scheme) -> list[ir.Value]:
    """Return the inputs on the output's scale; none if the op computes or reads a constant."""
    if node.op_type not in scheme.shared or node.domain != "" or _mode(node) != "nearest":
        return []
    inputs = node.inputs if node.op_type == "Concat" else node.inputs[:1]
    values = [value for value in inputs if value is not None and is_activation(value)]
    return values if len(values) == len(inputs) else []


def _mode(node: ir.Node) -> str:
    """Return how a Resize fills gaps. Only nearest, ONNX's default, gives no new values."""
    return str(node.attributes.get_string("mode", "nearest"))


def is_activation(value: ir.Value | None) -> bool:
    """Whether it's a float tensor that isn't constant. An unknown type counts as float."""
    if value is None or constant_array(value) is not None or is_overridable(value):
        return False
    return value.dtype in (None, ir.DataType.FLOAT, ir.DataType.FLOAT16)


def residual_inputs(node: ir.Node) -> tuple[ir.Value, ir.Value] | None:
    """Return the two branches of an Add of activations; None for other nodes, and for x + x."""
    if node.op_type != "Add" or node.domain != "":
        return None
    first, second = node.inputs
    if first is None or second is None or first is second:
        return None
    return (first, second) if is_activation(first) and is_activation(second) else None


def fuses_with_add(value: ir.Value) -> bool:
    """Whether the value is a convolution's output with one reader, so that an Add can fuse."""
    producer = value.producer()
    is_conv = producer is not None and producer.op_type in ("Conv", "ConvTranspose")
    return is_conv and used_once(value)


def fused_output(node: ir.Node, scheme: Scheme) -> ir.Value:
    """Return the node's output, or that of the activation function that fuses with it."""
    value = node.outputs[0]
    if not used_once(value):
        return value
    user = value.consumers()[0]
    fuses = user.inputs[0] is value and fuses_with_producer(user, scheme)
    return user.outputs[0] if fuses else value


def fuses_with_producer(node: ir.Node, scheme: Scheme) -> bool:
    """Whether a node is an activation function that fuses with the node before it."""
    if node.domain != "" or node.op_type not in scheme.fused:
        return False
    # For unsigned integers, the range itself does the clipping, but only if the Clip starts at 0.
    return scheme.symmetric or node.op_type != "Clip" or clip_limits(node) is not None


def clip_limits(node: ir.Node | None) -> tuple[float, float] | None:
    """Return the bounds of a Clip between 0 and a constant; None for all other nodes."""
    if node is None or node.op_type != "Clip" or len(node.inputs) < 3:
        return None
    low, high = constant_array(node.inputs[1]), constant_array(node.inputs[2])
    if low is None or high is None or not low.size == high.size == 1:  # [] or, against ONNX, [1]
        return None
    return (0.0, high.item()) if low.item() == 0 < high.item() else None


def is_never_negative(value: ir.Value) -> bool:
    """Whether the graph's structure alone guarantees that the value is never negative."""
    node = value.producer()
    if node is None or node.domain != "":
        return False
    if node.op_type in _NEVER_NEGATIVE or clip_limits(node) is not None:
        return True
    moves = node.op_type in _KEEPS_SIGN and _mode(node) != "cubic"  # cubic overshoots
    inputs = node.inputs if node.op_type == "Concat" else node.inputs[:1]
    return moves and all(each is not None and is_never_negative(each) for each in inputs)


def weight_axis(node: ir.Node) -> int:
    """Return the axis of a linear node's output channels in its weight."""
    is_row = node.op_type == "Conv" or bool(node.attributes.get_int("transB", 0))
    return 0 if is_row else 1


def _check_names(nodes: Iterable[ir.Node], keep: Collection[str]) -> None:
    known = [label(node) for node in nodes]
    for name in keep:
        if name not in known:
            raise unknown_name("node to keep", name, known)


def _read_linears(
    nodes: list[ir.Node], scheme: Scheme, keep: Collection[str]
) -> tuple[tuple[Linear, ...], tuple[Kept, ...]]:
    last = set() if scheme.quantize_last else _last_dense(nodes)
    found: list[Linear] = []
    kept: list[Kept] = []
    for node in nodes:
        linear = read_linear(node)
        if linear is None:
            continue
        reason = _refusal(linear, scheme)
        reason = "last dense layer" if node in last else reason
        reason = "asked for" if label(node) in keep else reason
        if reason is None:
            found.append(linear)
        else:
            kept.append(Kept(label(node), reason))
    return tuple(found), tuple(kept)


def _refusal(linear: Linear, scheme: Scheme) -> str | None:
    node = linear.node
    if node.op_type not in scheme.inputs:
        kind = "integer" if scheme.precision == "int8" else "FP8"
        return f"the {scheme.name} scheme has no {kind} {node.op_type}"
    if not is_activation(node.inputs[0]):
        return "its input isn't a float activation"
    if node.op_type == "ConvTranspose" and node.attributes.get_int("group", 1) != 1:
        return "a grouped ConvTranspose has no axis of output channels"
    if node.attributes.get_int("transA", 0):
        return "transA=1"
    if scheme.int32_bias and node.attributes.get_float("alpha", 1.0) != 1:
        return "alpha isn't 1"
    parameters = read_parameters(linear)
    if isinstance(parameters, str):
        return parameters
    if scheme.convolutions is not None and node.op_type == "Conv":
        groups = node.attributes.get_int("group", 1)
        return scheme.convolutions.refusal(parameters.weight.shape, groups)
    return None


def _last_dense(nodes: list[ir.Node]) -> set[ir.Node]:
    """Return the dense layers that are not followed by another linear node."""
    leading: set[ir.Node] = set()  # nodes that a linear node follows
    last: set[ir.Node] = set()
    for node in reversed(nodes):
        users = {user for value in node.outputs for user in value.consumers()}
        follows = any(user in leading or user.op_type in LINEAR_OPS for user in users)
        if follows:
            leading.add(node)
        elif node.op_type in ("Gemm", "MatMul"):
            last.add(node)
    return last


def _wanted_by(
    node: ir.Node, scheme: Scheme, depths: Mapping[ir.Value, int], keep: Collection[str]
) -> Iterator[ir.Value]:
    """Yield the values that get a pair because of the node."""
    inputs = _quantized_inputs(node, scheme)
    if not inputs:
        return
    if node.op_type == "Add" and scheme.shortcut_only:
        yield from _shortcut(node, depths, keep)
    else:
        yield from inputs
    if node.op_type in scheme.outputs:
        yield fused_output(node, scheme)


def _quantized_inputs(node: ir.Node, scheme: Scheme) -> list[ir.Value]:
    if node.op_type not in scheme.inputs:
        return []
    inputs = node.inputs[:2] if node.op_type in ("Add", "Mul") else node.inputs[:1]
    values = [value for value in inputs if value is not None and is_activation(value)]
    return values if len(values) == len(inputs) else []


def _shortcut(
    add: ir.Node, depths: Mapping[ir.Value, int], keep: Collection[str]
) -> list[ir.Value]:
    """Return the branch that does not come from the convolution that fuses with the Add."""
    branches = residual_inputs(add)
    if branches is None:
        return []
    main, shortcut = sorted(
        branches,
        key=lambda value: (fuses_with_add(value), depths.get(value, 0)),
        reverse=True,
    )
    producer = main.producer()
    kept = producer is not None and label(producer) in keep
    return [] if kept else [shortcut]


def _depths(nodes: Iterable[ir.Node]) -> dict[ir.Value, int]:
    """Return how many nodes lead to each value, along the longest path."""
    depths: dict[ir.Value, int] = {}
    for node in nodes:
        depth = 1 + max((depths.get(value, 0) for value in node.inputs if value), default=0)
        depths.update(dict.fromkeys(node.outputs, depth))
    return depths


def _spread(moves: list[ir.Node], wanted: set[ir.Value], *, forward: bool) -> None:
    """Add the inputs of moves with a wanted result and, if `forward`, also the other way round."""
    count = -1
    while count != len(wanted):
        count = len(wanted)
        for node in [*moves, *reversed(moves)]:
            inputs = node.inputs if node.op_type == "Concat" else node.inputs[:1]
            ends = [*(value for value in inputs if value is not None), node.outputs[0]]
            if node.outputs[0] in wanted or (forward and any(end in wanted for end in ends)):
                wanted.update(ends)


def _groups(
    moves: Iterable[ir.Node], values: Sequence[ir.Value], scheme: Scheme
) -> dict[ir.Value, tuple[ir.Value, ...]]:
    groups: dict[ir.Value, list[ir.Value]] = {value: [value] for value in values}
    for node in moves:
        result = node.outputs[0]
        if result not in groups:
            continue
        for value in shared_inputs(node, scheme):
            if groups[value] is not groups[result] and _may_share(value, result, scheme):
                groups[result].extend(groups[value])
                groups.update(dict.fromkeys(groups[value], groups[result]))
    order = {value: index for index, value in enumerate(values)}
    return {value: tuple(sorted(group, key=order.__getitem__)) for value, group in groups.items()}


def _may_share(value: ir.Value, result: ir.Value, scheme: Scheme) -> bool:
    """Whether both may share: a ReLU's output with a zero point would not fuse with its Conv."""
    return scheme.symmetric or is_never_negative(value) == is_never_negative(result)


def _sources(value: ir.Value, scheme: Scheme) -> Iterator[ir.Value]:
    node = value.producer()
    inputs = [] if node is None else shared_inputs(node, scheme)
    if not inputs:
        yield value
    for each in inputs:
        yield from _sources(each, scheme)


def _in_order(graph: ir.Graph) -> Iterator[ir.Value]:
    yield from graph.inputs
    for node in graph:
        yield from node.outputs
