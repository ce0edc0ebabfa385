"""Even out the ranges of weights between layers, so that one scale suits more of them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from exporter.passes import Kept, PassReport
from exporter.passes.constants import Array, label, set_constant_input, used_once
from exporter.passes.linear import (
    Linear,
    bias_value,
    channel_amax,
    input_channels,
    read_linear,
    read_parameters,
    scale_weight,
)

# f(s x) = s f(x) for any s > 0 of each channel.
_HOMOGENEOUS = frozenset({"Identity", "LeakyRelu", "PRelu", "Relu"})
_POOLS = frozenset({"AveragePool", "GlobalAveragePool", "GlobalMaxPool", "MaxPool"})
_SWEEPS = 100
_CONVERGED = 1e-3  # in the logarithm of a factor: a weight's range is off by a percent of a step


@dataclass
class _Layer:
    """A linear node's constants in float64, while they are being scaled."""

    linear: Linear
    weight: Array
    bias: Array | None
    dtype: np.dtype[np.generic]


@dataclass(frozen=True)
class _Pair:
    """Two layers; each channel of the first is `repeats` inputs of the second in a row."""

    first: _Layer
    second: _Layer
    repeats: int


class Equalize(ir.passes.InPlacePass):
    """Scale channels between pairs of linear nodes without changing the function.

    For f positively homogeneous and s > 0, W2 f(W1 x + b1) = (W2 S) f(W1 / S x + b1 / S) with
    S = diag(s). With r1 and r2 the largest magnitudes of a channel's weights in W1's output and
    W2's input,

        s = sqrt(r1 r2) / r2

    makes both sqrt(r1 r2) (Nagel et al. 2019, arXiv 1906.04721, section 4.1, equation 11). Pairs
    of a chain change each other's ranges, so all are visited in turn until no factor changes. The
    factors are computed in float64, and the weights are rounded once. A channel whose weights are
    all 0 on one side keeps s = 1. The bias counts in r1: if tiny weights have an ordinary bias,
    b1 / s would set the range of the whole activation.

    Between the two may be Relu, LeakyRelu, PRelu, pooling, and a Flatten before a dense layer.
    It must not fire if a value between them has another reader or is a graph output; if any other
    op is between them, most of all Clip (ReLU6) and Add; or if a weight or bias is shared or isn't
    constant. Each linear node that is not the first of a pair is in `report.kept`. The graph is
    NCHW.

    Attributes:
        report: report of the latest call; `applied` names the first node of each pair.
    """

    def __init__(self) -> None:
        """Take no options."""
        self.report = PassReport("equalize")

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Find the pairs, equalize them together, and write their constants back."""
        self.report = PassReport("equalize")
        pairs = self._pairs(model.graph)
        for _ in range(_SWEEPS):
            if max((_equalize(pair) for pair in pairs), default=0) < _CONVERGED:
                break
        layers = {id(layer): layer for pair in pairs for layer in (pair.first, pair.second)}
        for layer in layers.values():
            _write(layer)
        return ir.passes.PassResult(model, modified=bool(pairs))

    def _pairs(self, nodes: Iterable[ir.Node]) -> list[_Pair]:
        linears = [linear for node in nodes if (linear := read_linear(node)) is not None]
        layers = {linear.node: _read(linear) for linear in linears}
        pairs = []
        for linear in linears:
            first, found = layers[linear.node], _follower(linear)
            second = layers[found[0]] if isinstance(found, tuple) else None
            reason = next((each for each in (found, first, second) if isinstance(each, str)), None)
            if reason is not None:
                self.report.kept.append(Kept(label(linear.node), reason))
                continue
            assert isinstance(found, tuple)
            assert isinstance(first, _Layer)
            assert isinstance(second, _Layer)
            pairs.append(_Pair(first, second, found[1]))
            self.report.applied.append(label(linear.node))
        return pairs


def _read(linear: Linear) -> _Layer | str:
    """Return the layer's constants, or why they can't be scaled."""
    parameters = read_parameters(linear)
    if isinstance(parameters, str):
        return f"{label(linear.node)}: {parameters}"
    values = (linear.node.inputs[1], bias_value(linear.node))
    if any(value is not None and not used_once(value) for value in values):
        return f"{label(linear.node)}: weights shared"
    bias = parameters.bias
    if bias is not None:
        bias = np.array(np.broadcast_to(bias, (linear.channels,)))
    weight = parameters.weight
    return _Layer(linear, weight.astype(np.float64), bias, weight.dtype)


def _follower(linear: Linear) -> tuple[ir.Node, int] | str:
    """Return the only linear node that reads the channels, and the repeats, or why there's none."""
    value, axis = linear.node.outputs[0], linear.axis
    while True:
        if value.is_graph_output() or not value.uses():
            return "its output is the graph's"
        if not used_once(value):
            return f"its output has {len(value.uses())} readers"
        ((node, index),) = value.uses()
        if node.graph is not linear.node.graph:
            return "read inside a branch or loop"
        second = read_linear(node)
        if second is not None and index == 0:
            return _fit(linear, second, axis)
        if index != 0 or node.domain != "" or not _passes(node, axis):
            return f"{node.op_type} follows"
        axis = -1 if node.op_type == "Flatten" else axis
        value = node.outputs[0]


def _passes(node: ir.Node, axis: int) -> bool:
    """Whether a factor on each channel along `axis` passes through the node unchanged."""
    if len(node.outputs) > 1:  # the indices of a MaxPool
        return False
    if node.op_type == "Flatten":
        return axis == 1 and node.attributes.get_int("axis", 1) == 1
    return node.op_type in _HOMOGENEOUS or (axis == 1 and node.op_type in _POOLS)


def _fit(first: Linear, second: Linear, axis: int) -> tuple[ir.Node, int] | str:
    reads = 1 if second.node.op_type in ("Conv", "ConvTranspose") else -1
    inputs = input_channels(second)
    whole = inputs % first.channels == 0
    transposed = bool(second.node.attributes.get_int("transA", 0))
    if reads != axis or not whole or transposed:
        return f"{label(second.node)} reads another axis"
    return second.node, inputs // first.channels


def _equalize(pair: _Pair) -> float:
    """Scale one pair, and return the largest change as a logarithm."""
    first, second, repeats = pair.first, pair.second, pair.repeats
    largest = channel_amax(first.linear, first.weight, "outputs")
    if first.bias is not None:
        largest = np.where(largest > 0, np.maximum(largest, np.abs(first.bias)), 0)
    following = channel_amax(second.linear, second.weight, "inputs")
    following = following.reshape(-1, repeats).max(axis=1)
    usable = (largest > 0) & (following > 0)
    ratio = np.divide(largest, following, out=np.ones_like(largest), where=usable)
    scale = np.sqrt(ratio)
    first.weight = scale_weight(first.linear, first.weight, 1 / scale)
    if first.bias is not None:
        first.bias = first.bias / scale
    second.weight = scale_weight(second.linear, second.weight, np.repeat(scale, repeats), "inputs")
    return float(np.abs(np.log(scale)).max(initial=0))


def _write(layer: _Layer) -> None:
    node = layer.linear.node
    set_constant_input(node, 1, layer.weight.astype(layer.dtype), f"{label(node)}_weight")
    if layer.bias is not None:
        set_constant_input(node, 2, layer.bias.astype(layer.dtype), f"{label(node)}_bias")
        node.attributes.pop("beta", None)  # a Gemm's beta is in the new bias already
