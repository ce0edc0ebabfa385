"""Find the affine maps of channels after a linear node: batch norms and their parts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from exporter.passes import Kept
from exporter.passes.constants import Array, constant_array, is_overridable, label, used_once
from exporter.passes.linear import Linear


@dataclass(frozen=True)
class Affine:
    """y = x * scale + shift, in float64; each of shape [channels] or []."""

    scale: Array
    shift: Array

    def then(self, other: Affine) -> Affine:
        """Return the map that applies `self` first and `other` to its result."""
        return Affine(self.scale * other.scale, self.shift * other.scale + other.shift)

    @property
    def is_finite(self) -> bool:
        """Whether all its numbers are finite."""
        return bool(np.isfinite(self.scale).all() and np.isfinite(self.shift).all())


@dataclass(frozen=True)
class Link:
    """A node that is, or looks like, an affine map of each channel.

    Attributes:
        node: BatchNormalization, Mul, Div, Add or Sub.
        map: the affine map, or the reason why the node can't be folded.
        normalizes: whether it makes its chain a batch norm: a BatchNormalization, or a Mul or Div
            with one constant per channel.
    """

    node: ir.Node
    map: Affine | str
    normalizes: bool

    @property
    def only_shifts(self) -> bool:
        """Whether it is x + c or x - c."""
        is_sum = self.node.op_type in ("Add", "Sub")
        return is_sum and isinstance(self.map, Affine) and bool((self.map.scale == 1).all())

    @property
    def per_channel(self) -> bool:
        """Whether it looks like part of a batch norm, not like one gain or offset for all."""
        return isinstance(self.map, str) or self.map.scale.ndim > 0 or self.map.shift.ndim > 0


def read_chain(linear: Linear) -> tuple[list[Link], list[Kept]]:
    """Return the foldable links after a linear node, and the near matches that end the chain."""
    links: list[Link] = []
    value = linear.node.outputs[0]
    while True:
        found = list(_links_of(value, linear))
        if not found:
            return links, []
        if not used_once(value):
            reason = _other_use(value, is_first=not links)
            return links, [Kept(label(link.node), reason) for link in found if link.per_channel]
        link = found[0]
        if isinstance(link.map, str):
            return links, [Kept(label(link.node), link.map)]
        links.append(link)
        value = link.node.outputs[0]


def batch_norm_names(links: Sequence[Link]) -> list[str]:
    """Return one name per batch norm: the BatchNormalization's, or that of a chain's last node."""
    names: list[str] = []
    pending: str | None = None
    for link in links:
        if link.node.op_type == "BatchNormalization":
            names.extend([pending] if pending else [])
            names.append(label(link.node))
            pending = None
        elif pending or (link.normalizes and not names):
            pending = label(link.node)
    return [*names, pending] if pending else names


def _links_of(value: ir.Value, linear: Linear) -> Iterator[Link]:
    for user in value.consumers():
        link = _read_link(user, value, linear)
        if link is not None:
            yield link


def _other_use(value: ir.Value, *, is_first: bool) -> str:
    what = "the linear node's output" if is_first else "an intermediate value"
    return f"{what} is a graph output" if value.is_graph_output() else f"{what} is used elsewhere"


def _read_link(node: ir.Node, value: ir.Value, linear: Linear) -> Link | None:
    if node.domain != "" or node.graph is not linear.node.graph:
        return None
    if node.op_type == "BatchNormalization" and node.inputs[0] is value:
        return Link(node, _batch_norm_map(node, linear), normalizes=True)
    if node.op_type in ("Add", "Sub", "Mul", "Div"):
        return _read_arithmetic(node, value, linear)
    return None


def _batch_norm_map(node: ir.Node, linear: Linear) -> Affine | str:
    if node.attributes.get_int("training_mode", 0):
        return "training_mode=1"
    if any(out.uses() or out.is_graph_output() for out in node.outputs[1:]):
        return "its running statistics are used"
    if linear.axis == -1 and linear.rank != 2:
        return "its channel axis 1 isn't known to be the linear node's last"
    arrays = [constant_array(value) for value in node.inputs[1:5]]
    given = [array.astype(np.float64) for array in arrays if array is not None]
    if len(given) < 4:
        overridable = any(is_overridable(value) for value in node.inputs[1:5])
        return "a parameter is a graph input" if overridable else "a parameter isn't constant"
    if any(array.shape != (linear.channels,) for array in given):
        return "a parameter isn't of shape [channels]"
    gamma, beta, mean, var = given
    with np.errstate(all="ignore"):  # _finite reports a bad variance
        scale = gamma / np.sqrt(var + node.attributes.get_float("epsilon", 1e-5))
        return _finite(Affine(scale, beta - mean * scale))


def _read_arithmetic(node: ir.Node, value: ir.Value, linear: Linear) -> Link | None:
    index = 0 if node.inputs[0] is value else 1
    other = node.inputs[1 - index]
    if other is None or other is value or (node.op_type == "Div" and index == 1):
        return None  # x * x and c / x aren't affine
    is_gain = node.op_type in ("Mul", "Div")
    if is_overridable(other) and other.const_value is not None:
        constant = _per_channel(other.const_value.numpy(), linear)
        one_a_channel = not isinstance(constant, str) and constant.ndim > 0
        return Link(node, "a parameter is a graph input", is_gain and one_a_channel)
    array = constant_array(other)
    if array is None:
        return None  # a gate or a residual
    constant = _per_channel(array, linear)
    if isinstance(constant, str):
        return Link(node, constant, normalizes=False)
    mapped = _arithmetic_map(node.op_type, constant, value_first=index == 0)
    return Link(node, mapped, normalizes=is_gain and constant.ndim > 0)


def _arithmetic_map(op_type: str, constant: Array, *, value_first: bool) -> Affine | str:
    one, zero = np.ones(()), np.zeros(())
    if op_type == "Add":
        return _finite(Affine(one, constant))
    if op_type == "Sub":
        return _finite(Affine(one, -constant) if value_first else Affine(-one, constant))
    if op_type == "Mul":
        return _finite(Affine(constant, zero))
    with np.errstate(divide="ignore"):  # _finite reports a zero
        return _finite(Affine(1.0 / constant, zero))


def _finite(affine: Affine) -> Affine | str:
    return affine if affine.is_finite else "its constants give a number that isn't finite"


def _per_channel(array: Array, linear: Linear) -> Array | str:
    """Return the constant as float64 of shape [channels] or [], or the reason it is neither."""
    if not np.issubdtype(array.dtype, np.floating):
        return f"constant is {array.dtype}, not float"
    rank = linear.rank if linear.rank is not None else 1
    if array.ndim > rank:
        return "constant may raise the rank of the result"
    shape = (1,) * (rank - array.ndim) + array.shape
    varying = [axis for axis, size in enumerate(shape) if size != 1]
    if varying and varying != [linear.axis % rank]:
        return "constant varies along another axis than channels"
    if array.size not in (1, linear.channels):
        return "constant's size isn't the number of channels"
    # With one channel, only the rank separates a parameter, [1, 1, 1], from a gain, [].
    one_a_channel = array.size == linear.channels and array.ndim > 0
    return array.astype(np.float64).reshape(-1 if one_a_channel else ())
