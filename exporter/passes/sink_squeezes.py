"""Move Squeezes towards the outputs until they meet an Unsqueeze and vanish."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from exporter.passes import Kept, PassReport
from exporter.passes._transposed import BROADCAST_OPS, REDUCE_OPS, UNARY_OPS
from exporter.passes.constants import (
    Array,
    constant_array,
    drop_unused_constants,
    label,
    set_constant_input,
    unique_name,
)

_SINCE_OPSET = 13


class SinkSqueezes(ir.passes.InPlacePass):
    """Move each Squeeze behind the ops that work as well before it.

    With S a Squeeze of axes of size 1, and U an Unsqueeze of the same axes:

        f(S(x)) = S(f'(x))               f' is f with its axes counted, and constants shaped, for x
        U(S(x)) = x
        ReduceMean(S(x), axes) = ReduceMean(x, axes and those of S)        without keepdims

    TensorFlow computes a 1-D convolution as a 2-D one between an Unsqueeze and a Squeeze. So the
    bias, batch norm and activation behind it are 1-D, and can't be folded, fused or quantized.
    With this pass the whole network is 2-D, with height 1.

    It must not fire if another input is neither squeezed alike, nor constant, nor one element, or
    if a constant has a higher rank than S(x). It changes nothing before opset 13, where axes are
    an attribute. A Squeeze stays before a graph output, and before ops that are not in the table.

    Attributes:
        report: of the latest call; `applied` names the nodes that Squeezes moved through.
    """

    def __init__(self) -> None:
        """Take no options."""
        self.report = PassReport("sink_squeezes")

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Sweep once in graph order, then remove the Squeezes that nothing reads."""
        from onnx_ir.passes import common

        self.report = PassReport("sink_squeezes")
        nodes = [node for node in model.graph if node.domain == ""]
        pairs = {"Squeeze", "Unsqueeze"} <= {node.op_type for node in nodes}
        if model.opset_imports.get("", 1) < _SINCE_OPSET or not pairs:
            return ir.passes.PassResult(model, modified=False)
        common.ShapeInferencePass()(model)  # the rules need ranks
        for node in nodes:
            self._try_sink(node)
        if self.report.applied:
            common.RemoveUnusedNodesPass()(model)
            drop_unused_constants(model.graph)
        return ir.passes.PassResult(model, modified=bool(self.report.applied))

    def _try_sink(self, node: ir.Node) -> bool:
        site = _read_site(node)
        if site is None:
            return False
        sunk = _RULES[node.op_type](site)
        if isinstance(sunk, str):
            self.report.kept.append(Kept(label(node), sunk))
            return False
        self.report.applied.append(label(node))
        if node.op_type == "Unsqueeze":
            assert site.sources[0] is not None
            ir.convenience.replace_all_uses_with(node.outputs[0], site.sources[0])
            return True
        for index, source in enumerate(site.sources):
            if source is not None:
                node.replace_input_with(index, source)
        for index, array in sunk.constants.items():
            set_constant_input(node, index, array, f"{label(node)}_input{index}")
        for attribute in sunk.attributes:
            node.attributes.add(attribute)
        if sunk.squeezes:
            _squeeze_output(node, site)
        return True


@dataclass(frozen=True)
class _Site:
    """A node that reads Squeezes of the same axes.

    Attributes:
        node: the node.
        axes: which axes of x the Squeeze removes, ascending.
        rank: of x.
        sources: for each input the x behind its Squeeze; None for the other inputs.
    """

    node: ir.Node
    axes: tuple[int, ...]
    rank: int
    sources: tuple[ir.Value | None, ...]

    @property
    def left(self) -> list[int]:
        """The axes of x that S(x) has, by its axis."""
        return [axis for axis in range(self.rank) if axis not in self.axes]


@dataclass(frozen=True)
class _Sunk:
    """The changes that make a node compute on x what it computed on S(x)."""

    attributes: tuple[ir.Attr, ...] = ()
    constants: dict[int, Array] = field(default_factory=dict)
    squeezes: bool = True


def _read_site(node: ir.Node) -> _Site | None:
    if node.domain != "" or node.op_type not in _RULES:
        return None
    found = [_squeezed(value) for value in node.inputs]
    first = next((each for each in found if each is not None), None)
    if first is None or first[0].shape is None:
        return None
    sources = tuple(each[0] if each and each[1] == first[1] else None for each in found)
    return _Site(node, first[1], len(first[0].shape), sources)


def _squeezed(value: ir.Value | None) -> tuple[ir.Value, tuple[int, ...]] | None:
    """Return the input and the axes of the Squeeze that makes a value; None if none does."""
    node = None if value is None else value.producer()
    if node is None or node.op_type != "Squeeze" or node.domain != "" or len(node.inputs) < 2:
        return None
    source, axes = node.inputs[0], constant_array(node.inputs[1])
    if source is None or source.shape is None or axes is None:
        return None
    rank = len(source.shape)
    return source, tuple(sorted(int(axis) % rank for axis in axes.ravel()))


def _unary(site: _Site) -> _Sunk | str:
    if any(source is not None for source in site.sources[1:]):
        return "an input other than the first is squeezed"
    if any(output.uses() or output.is_graph_output() for output in site.node.outputs[1:]):
        return "a second output is used"
    return _Sunk()


def _broadcast(site: _Site) -> _Sunk | str:
    """f(S(x), c) = S(f(x, c')): c' has an axis of size 1 for each axis that S removes."""
    constants: dict[int, Array] = {}
    for index, (value, source) in enumerate(zip(site.node.inputs, site.sources, strict=True)):
        array = constant_array(value)
        if source is not None or (array is not None and array.size == 1):
            continue
        if array is None:
            return "another input isn't squeezed alike"
        if array.ndim > len(site.left):
            return "a constant raises the rank"
        lacking = len(site.left) - array.ndim
        shape = (1,) * lacking + array.shape
        constants[index] = np.expand_dims(array.reshape(shape), site.axes)
    return _Sunk(constants=constants)


def _concat(site: _Site) -> _Sunk | str:
    if None in site.sources:
        return "another input isn't squeezed alike"
    return _moved_axis(site, 0)


def _softmax(site: _Site) -> _Sunk | str:
    return _moved_axis(site, -1)


def _moved_axis(site: _Site, default: int) -> _Sunk:
    axis = site.left[site.node.attributes.get_int("axis", default)]
    return _Sunk((ir.AttrInt64("axis", axis),))


def _reduce(site: _Site) -> _Sunk | str:
    """Without keepdims, reduce the removed axes too: of one element each, they change nothing."""
    attributes = site.node.attributes
    keepdims = bool(attributes.get_int("keepdims", 1))
    axes = _read_axes(site.node)
    if not axes:
        return "axes aren't constant, or not given"
    moved = [site.left[axis] for axis in axes]
    moved = sorted(moved if keepdims else [*moved, *site.axes])
    if len(site.node.inputs) > 1 and site.node.inputs[1] is not None:
        return _Sunk(constants={1: np.array(moved, np.int64)}, squeezes=keepdims)
    return _Sunk((ir.AttrInt64s("axes", moved),), squeezes=keepdims)


def _read_axes(node: ir.Node) -> Sequence[int] | None:
    if len(node.inputs) < 2 or node.inputs[1] is None:
        return node.attributes.get_ints("axes")
    array = constant_array(node.inputs[1])
    return None if array is None else [int(axis) for axis in array.ravel()]


def _pad(site: _Site) -> _Sunk | str:
    pads = constant_array(site.node.inputs[1])
    if pads is None or len(site.node.inputs) > 3:
        return "pads aren't constant, or pad some axes only"
    moved = np.zeros((2, site.rank), np.int64)
    moved[:, site.left] = pads.reshape(2, -1)
    return _Sunk(constants={1: moved.ravel()})


def _resize(site: _Site) -> _Sunk | str:
    """Scales get a 1 for each removed axis. Sizes would need that of x, which may be open."""
    scales = constant_array(site.node.inputs[2]) if len(site.node.inputs) == 3 else None
    if scales is None or site.node.attributes.get_ints("axes") is not None:
        return "scales aren't constant, or not given"
    moved = np.ones(site.rank, np.float32)
    moved[site.left] = scales
    return _Sunk(constants={2: moved})


def _unsqueeze(site: _Site) -> _Sunk | str:
    if site.node.outputs[0].is_graph_output():
        return "its result is returned"
    axes = constant_array(site.node.inputs[1])
    same = axes is not None and sorted(int(axis) % site.rank for axis in axes) == [*site.axes]
    return _Sunk(squeezes=False) if same else "other axes are added than the Squeeze removed"


def _squeeze_output(node: ir.Node, site: _Site) -> None:
    """Put a Squeeze behind the node's output, for all of its readers."""
    graph, value = node.graph, node.outputs[0]
    assert graph is not None
    was_output = value.is_graph_output()
    axes = ir.Value(name=unique_name(graph, f"{label(node)}_squeezed_axes"))
    axes.const_value = ir.tensor(np.array(site.axes, np.int64), name=axes.name)
    graph.register_initializer(axes)
    squeeze = ir.Node("", "Squeeze", [None, axes])
    result = squeeze.outputs[0]
    result.name = unique_name(graph, f"{value.name}_squeezed")
    result.shape, result.type = value.shape, copy(value.type)
    ir.convenience.replace_all_uses_with(value, result, replace_graph_outputs=True)
    squeeze.replace_input_with(0, value)
    graph.insert_after(node, squeeze)
    if value.shape is not None:
        sizes = list(value.shape)
        for axis in site.axes:
            sizes.insert(axis, 1)
        value.shape = ir.Shape(sizes)
    if was_output:  # the names of the graph's outputs stay
        value.name, result.name = result.name, value.name


_RULES: dict[str, Callable[[_Site], _Sunk | str]] = {
    **dict.fromkeys(UNARY_OPS, _unary),
    **dict.fromkeys(BROADCAST_OPS, _broadcast),
    **dict.fromkeys(REDUCE_OPS, _reduce),
    "Concat": _concat,
    "Softmax": _softmax,
    "LogSoftmax": _softmax,
    "Pad": _pad,
    "Resize": _resize,
    "Unsqueeze": _unsqueeze,
}
