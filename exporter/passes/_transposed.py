"""Rules to move a Transpose from before an op to after it, one per family of ops."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from exporter.passes.constants import Array, constant_array

Perm = tuple[int, ...]


@dataclass(frozen=True)
class Site:
    """A node that reads Transposes of one permutation.

    Attributes:
        node: the node.
        perm: y = Transpose(x, perm) for each transposed input y; axis i of y is axis perm[i] of x.
        sources: for each input y, its x; None if the input isn't such a y.
        opset: opset of the default domain.
    """

    node: ir.Node
    perm: Perm
    sources: tuple[ir.Value | None, ...]
    opset: int

    @property
    def rank(self) -> int:
        """The rank of the transposed inputs."""
        return len(self.perm)

    def moved(self, axis: int) -> int:
        """Return the axis of x for an axis of y. A negative axis counts from the end."""
        return self.perm[axis % self.rank]


@dataclass(frozen=True)
class Sunk:
    """The changes that make the node compute the same on x as on y.

    Attributes:
        attributes: attributes to set.
        constants: arrays to put in place of inputs, by input index.
        transposes: whether a Transpose of the same perm is needed after it.
    """

    attributes: tuple[ir.Attr, ...] = ()
    constants: dict[int, Array] = field(default_factory=dict)
    transposes: bool = True


Rule = Callable[[Site], Sunk | str]


def inverse(perm: Sequence[int]) -> Perm:
    """Return the permutation that undoes `perm`."""
    return tuple(int(axis) for axis in np.argsort(perm))


def _unary(site: Site) -> Sunk | str:
    """f(T(x)) = T(f(x)), element by element; the other inputs are scalars (Clip's bounds)."""
    if any(source is not None for source in site.sources[1:]):
        return "an input other than the first is transposed"
    if any(output.uses() or output.is_graph_output() for output in site.node.outputs[1:]):
        return "a second output is used"
    return Sunk()


def _broadcast(site: Site) -> Sunk | str:
    """f(T(x), T(z)) = T(f(x, z)); a constant c stands for T(T^-1(c)), extended to x's rank."""
    constants: dict[int, Array] = {}
    for index, (value, source) in enumerate(zip(site.node.inputs, site.sources, strict=True)):
        if source is not None or _is_one_element(value, site.rank):
            continue
        array = constant_array(value)
        if array is None:
            return "another input isn't transposed alike"
        if array.ndim > site.rank:
            return "a constant raises the rank"
        extended = array.reshape((1,) * (site.rank - array.ndim) + array.shape)
        constants[index] = extended.transpose(inverse(site.perm))
    return Sunk(constants=constants)


def _is_one_element(value: ir.Value | None, rank: int) -> bool:
    """Whether the value broadcasts the same way for any order of the axes."""
    if value is None or value.shape is None or len(value.shape) > rank:
        return False
    return all(size == 1 for size in value.shape.dims)


def _prelu(site: Site) -> Sunk | str:
    """Broadcast, but only from the slope to the data."""
    return _broadcast(site) if site.sources[0] is not None else "only the slope is transposed"


def _concat(site: Site) -> Sunk | str:
    """Concat(T(x), T(z), axis) = T(Concat(x, z, perm[axis])); constants as in broadcasting."""
    constants: dict[int, Array] = {}
    for index, (value, source) in enumerate(zip(site.node.inputs, site.sources, strict=True)):
        if source is not None:
            continue
        array = constant_array(value)
        if array is None or array.ndim != site.rank:
            return "another input isn't transposed alike"
        constants[index] = array.transpose(inverse(site.perm))
    axis = site.moved(site.node.attributes.get_int("axis", 0))
    return Sunk((ir.AttrInt64("axis", axis),), constants)


def _reduce(site: Site) -> Sunk | str:
    """Reduce(T(x), axes) = T(Reduce(x, perm[axes])); without keepdims no T, if the order stays."""
    keepdims = bool(site.node.attributes.get_int("keepdims", 1))
    axes = _read_axes(site)
    if axes is None:
        return "axes aren't constant"
    if not axes:  # all axes, or none with noop_with_empty_axes
        noop = bool(site.node.attributes.get_int("noop_with_empty_axes", 0))
        return Sunk(transposes=keepdims or noop)
    return _remap_axes(site, axes, keepdims=keepdims)


def _squeeze(site: Site) -> Sunk | str:
    """Squeeze(T(x), axes) = Squeeze(x, perm[axes]) if the remaining axes are in order."""
    axes = _read_axes(site)
    if not axes:
        return "axes aren't constant, or not given"
    return _remap_axes(site, axes, keepdims=False)


def _remap_axes(site: Site, axes: Sequence[int], *, keepdims: bool) -> Sunk | str:
    moved = sorted(site.moved(axis) for axis in axes)
    left = [axis for axis in site.perm if axis not in moved]
    if not keepdims and left != sorted(left):
        return "the axes left change their order"
    if _has_input(site.node, 1):
        return Sunk(constants={1: np.array(moved, np.int64)}, transposes=keepdims)
    return Sunk((ir.AttrInt64s("axes", moved),), transposes=keepdims)


def _read_axes(site: Site) -> list[int] | None:
    """Return axes from the attribute or, in later opsets, the second input; [] if not given."""
    if not _has_input(site.node, 1):
        return list(site.node.attributes.get_ints("axes", ()))
    array = constant_array(site.node.inputs[1])
    return None if array is None else [int(axis) for axis in array]


def _pad(site: Site) -> Sunk | str:
    """Pad(T(x), pads) = T(Pad(x, pads by perm)); pads are all begins, then all ends."""
    if _has_input(site.node, 3):
        return "pads some axes only"
    given = constant_array(site.node.inputs[1]) if _has_input(site.node, 1) else None
    if site.opset >= 11 and given is None:
        return "pads aren't constant"
    flat = site.node.attributes.get_ints("pads", ()) if given is None else given
    moved = np.asarray(flat, np.int64).reshape(2, site.rank)[:, list(inverse(site.perm))].ravel()
    if given is None:
        return Sunk((ir.AttrInt64s("pads", moved.tolist()),))
    return Sunk(constants={1: moved})


def _batch_norm(site: Site) -> Sunk | str:
    """Like unary, if axis 1, the channels, stays axis 1."""
    return _unary(site) if site.perm[1] == 1 else "channels aren't on axis 1 before the Transpose"


def _softmax(site: Site) -> Sunk | str:
    """Softmax(T(x), axis) = T(Softmax(x, perm[axis])), from opset 13 on, where axis is one axis."""
    if site.opset < 13:
        return "before opset 13 it flattens the axes from `axis` on"
    axis = site.moved(site.node.attributes.get_int("axis", -1))
    return Sunk((ir.AttrInt64("axis", axis),))


def _reshape(site: Site) -> Sunk | str:
    """Reshape(T(x)) = Reshape(x) if only axes of size 1 move: the order in memory is the same."""
    source = site.sources[0]
    if source is None or not _keeps_order(source, site.perm):
        return "the Transpose changes the order of the elements"
    if site.node.op_type == "Flatten":
        axis = site.node.attributes.get_int("axis", 1)
        axis += site.rank if axis < 0 else 0
        same = sorted(site.perm[:axis]) == list(range(axis))
        return Sunk(transposes=False) if same else "splits at an axis that moves"
    target = constant_array(site.node.inputs[1])
    if target is None or any(size == 0 and site.perm[i] != i for i, size in enumerate(target)):
        return "copies the size of an axis that moves, or its shape isn't constant"
    return Sunk(transposes=False)


def _keeps_order(value: ir.Value, perm: Perm) -> bool:
    if value.shape is None:
        return False
    left = [axis for axis in perm if value.shape[axis] != 1]
    return left == sorted(left)


def _resize(site: Site) -> Sunk | str:
    """Resize(T(x), scales) = T(Resize(x, scales by perm)); sizes likewise."""
    if site.node.attributes.get_ints("axes") is not None:
        return "resizes some axes only"
    constants: dict[int, Array] = {}
    for index in range(1, len(site.node.inputs)):
        if not _has_input(site.node, index):
            continue
        array = constant_array(site.node.inputs[index])
        if array is None:
            return "scales or sizes aren't constant"
        if array.size:
            rows = array.reshape(-1, site.rank)  # two of a roi
            constants[index] = rows[:, list(inverse(site.perm))].ravel()
    return Sunk(constants=constants)


def _has_input(node: ir.Node, index: int) -> bool:
    return len(node.inputs) > index and node.inputs[index] is not None


# fmt: off
UNARY_OPS = (
    "Abs", "Cast", "Ceil", "Celu", "Clip", "Dropout", "Elu", "Erf", "Exp", "Floor", "Gelu",
    "HardSigmoid", "HardSwish", "Identity", "LeakyRelu", "Log", "Mish", "Neg", "Not",
    "Reciprocal", "Relu", "Round", "Selu", "Sigmoid", "Sign", "Softplus", "Softsign", "Sqrt",
    "Tanh", "ThresholdedRelu",
)
BROADCAST_OPS = ("Add", "Div", "Max", "Mean", "Min", "Mul", "Pow", "Sub", "Sum", "Where")
REDUCE_OPS = (
    "ReduceL1", "ReduceL2", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd", "ReduceSum",
    "ReduceSumSquare",
)
# fmt: on

RULES: dict[str, Rule] = {
    **dict.fromkeys(UNARY_OPS, _unary),
    **dict.fromkeys(BROADCAST_OPS, _broadcast),
    **dict.fromkeys(REDUCE_OPS, _reduce),
    "PRelu": _prelu,
    "Concat": _concat,
    "Squeeze": _squeeze,
    "Pad": _pad,
    "Resize": _resize,
    "BatchNormalization": _batch_norm,
    "Softmax": _softmax,
    "LogSoftmax": _softmax,
    "Reshape": _reshape,
    "Flatten": _reshape,
}
