"""Fold inference batch norms into the linear node before them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import takewhile

import numpy as np
import onnx_ir as ir

from exporter.passes import Kept, PassReport
from exporter.passes._affine import (
    Affine,
    Link,
    batch_norm_names,
    read_chain,
)
from exporter.passes.constants import (
    Array,
    add_initializer,
    constant_array,
    drop_unused_constants,
    label,
    set_constant_input,
    unique_name,
    used_once,
)
from exporter.passes.linear import Linear, bias_value, read_linear, read_parameters, scale_weight

# What a batch norm of features (batch, channels) may follow. After anything else, a Mul and an Add
# with one constant per channel may be the end of a layer normalization.
_NORMS_FOLLOW = frozenset(
    {
        *("Add", "AveragePool", "Clip", "Concat", "Elu", "Flatten", "GlobalAveragePool"),
        *("GlobalMaxPool", "LeakyRelu", "MaxPool", "PRelu", "ReduceMax", "ReduceMean", "Relu"),
        *("Reshape", "Selu", "Sigmoid", "Softplus", "Squeeze", "Tanh"),
    }
)


@dataclass(frozen=True)
class _Folded:
    """A linear node's new constants, in the weight's dtype; None if one stays the same."""

    weight: Array | None
    bias: Array | None


class FoldBatchNorm(ir.passes.InPlacePass):
    """Fold inference batch norm into the Conv, ConvTranspose, Gemm or MatMul before it.

    y = gamma * (W x + bias - mean) / sqrt(var + epsilon) + beta is still linear in x:

        a = gamma / sqrt(var + epsilon)      W'    = W * a, along the output channels
        b = beta - mean * a                  bias' = bias * a + b

    The new constants are computed in float64 and rounded to the weight's dtype once. The batch
    norm is (a) a BatchNormalization node with its own epsilon, or (b) a chain of Mul, Div, Add and
    Sub with constants that are scalar or one per channel. At least one Mul or Div of the chain
    has one constant per channel. A chain may mix (a) and (b). It is folded as a whole, up to its
    first node that can't be folded. An Add alone is not a batch norm: it is merged into the bias
    and counted in `report_bias`. A chain with only scalar gains stays. The graph is NCHW of any
    rank with constants folded.

    A MatMul has no bias, so it keeps one Add after it. It isn't rewritten as Gemm: that would
    need rank 2, and every runtime joins MatMul and Add by itself.

    It must not fire if the linear node's output, or an intermediate value, is used elsewhere or
    is a graph output (the nodes before that value are still folded); if another node also uses
    the weight or bias ("weights shared"); on parameters that aren't constant, or are graph inputs
    (the caller may feed them); with training_mode=1; on constants that vary along another axis
    than channels; on types other than float; if a weight would not be finite in its dtype; and
    after a node that isn't linear (pre-activation). Each is in `report.kept` with its reason.

    Attributes:
        report: report of the latest call; `applied` has one name for each batch norm: the
            BatchNormalization's, or that of the chain's last node.
        report_bias: the merged biases, by the last Add or Sub.
    """

    def __init__(self) -> None:
        """Take no options."""
        self.report = PassReport("fold_batch_norm")
        self.report_bias = PassReport("merge_bias")

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Fold after each linear node in graph order."""
        self.report = PassReport("fold_batch_norm")
        self.report_bias = PassReport("merge_bias")
        modified = False
        for node in tuple(model.graph):
            if self._try_fold(node):
                modified = True
        self._note_others(model)
        if modified:
            drop_unused_constants(model.graph)
        return ir.passes.PassResult(model, modified=modified)

    def _try_fold(self, node: ir.Node) -> bool:
        linear = read_linear(node)
        if linear is None:
            return False
        chain, stops = read_chain(linear)
        for links in _candidates(linear, chain):
            folded = _fold(linear, links)
            if isinstance(folded, str):
                names = batch_norm_names(links) or [label(links[-1].node)]
                self.report.kept.extend(Kept(name, folded) for name in names)
                continue
            _apply(linear, links, folded)
            self._note_applied(links)
            self.report.kept.extend(stops)
            return True
        self.report.kept.extend(stops)
        return False

    def _note_applied(self, links: Sequence[Link]) -> None:
        names = batch_norm_names(links)
        self.report.applied.extend(names)
        if not names:
            self.report_bias.applied.append(label(links[-1].node))

    def _note_others(self, model: ir.Model) -> None:
        """Report the reason for the batch norms that don't follow a linear node."""
        noted = {kept.node for kept in self.report.kept}
        for node in model.graph.all_nodes():
            if node.op_type == "BatchNormalization" and label(node) not in noted:
                inside = node.graph is not model.graph
                reason = "in a subgraph" if inside else _not_after_linear(node)
                self.report.kept.append(Kept(label(node), reason))
        for gain, shift in _loose_chains(model.graph):
            if not noted & {label(gain), label(shift)}:
                self.report.kept.append(Kept(label(shift), _not_after_linear(gain)))


def _not_after_linear(node: ir.Node) -> str:
    producer = _producer(node)
    what = "a graph input" if producer is None else f"the output of {producer.op_type}"
    return f"its input is {what}, not a linear node's output"


def _producer(node: ir.Node) -> ir.Node | None:
    """Return the node that makes the input that isn't constant."""
    data = (value for value in node.inputs if value is not None and constant_array(value) is None)
    value = next(data, None)
    return None if value is None else value.producer()


def _loose_chains(graph: ir.Graph) -> Iterator[tuple[ir.Node, ir.Node]]:
    """Yield each Mul followed by an Add, both with one constant per channel.

    Channels are the third axis from the end for images, and the last one for features.
    """
    for gain in graph:
        readers = gain.outputs[0].consumers() if gain.op_type == "Mul" else ()
        if len(readers) != 1 or readers[0].op_type != "Add":
            continue
        producer = _producer(gain)
        after = producer is not None and producer.op_type in _NORMS_FOLLOW
        axis = -1 if after and not _channels_of_constant(gain, -3) else -3
        channels = [_channels_of_constant(node, axis) for node in (gain, readers[0])]
        if channels[0] is not None and channels[0] == channels[1]:
            yield gain, readers[0]


def _channels_of_constant(node: ir.Node, axis: int) -> int | None:
    for value in node.inputs:
        array = constant_array(value)
        if array is not None and array.ndim >= -axis and 1 < array.size == array.shape[axis]:
            return array.size
    return None


def _candidates(linear: Linear, chain: list[Link]) -> Iterator[list[Link]]:
    """Yield chains to try, longest first: the whole one if it has a batch norm, then its Adds."""
    if any(link.normalizes for link in chain):
        yield chain
    shifts = list(takewhile(lambda link: link.only_shifts, chain))
    # A MatMul's bias is the Add after it, so that Add can't be merged any further.
    if shifts and linear.node.op_type != "MatMul":
        yield shifts


def _fold(linear: Linear, links: Sequence[Link]) -> _Folded | str:
    parameters = read_parameters(linear)
    if isinstance(parameters, str):
        return parameters
    affine = reduce(Affine.then, (link.map for link in links if isinstance(link.map, Affine)))
    rescales = bool((affine.scale != 1).any())
    reason = _shared(linear.node, weight_changes=rescales)
    if reason:
        return reason
    dtype = parameters.weight.dtype
    with np.errstate(over="ignore"):  # an overflow is reported below
        weight = scale_weight(linear, parameters.weight, affine.scale).astype(dtype)
        bias = _bias(linear, parameters.bias, affine).astype(dtype)
    if not (np.isfinite(weight).all() and np.isfinite(bias).all()):
        return f"folded weights aren't finite in {dtype}"
    adds = parameters.bias is not None or bool(bias.any())
    return _Folded(weight if rescales else None, bias if adds else None)


def _bias(linear: Linear, bias: Array | None, affine: Affine) -> Array:
    old = np.zeros(()) if bias is None else bias
    return np.broadcast_to(old * affine.scale + affine.shift, (linear.channels,))


def _shared(node: ir.Node, *, weight_changes: bool) -> str | None:
    weight, bias = node.inputs[1], bias_value(node)
    if weight_changes and weight is not None and not used_once(weight):
        return "weights shared"
    if bias is not None and not used_once(bias):
        return "weights shared (bias)"
    return None


def _apply(linear: Linear, links: Sequence[Link], folded: _Folded) -> None:
    node, graph = linear.node, linear.node.graph
    assert graph is not None
    if folded.weight is not None:
        set_constant_input(node, 1, folded.weight, f"{label(node)}_weight")
    result = node.outputs[0] if folded.bias is None else _add_bias(node, folded.bias)
    old = links[-1].node.outputs[0]
    name, result.shape, result.type = old.name, old.shape or result.shape, old.type or result.type
    ir.convenience.replace_all_uses_with(old, result, replace_graph_outputs=True)
    graph.remove([link.node for link in links], safe=True)
    result.name = name


def _add_bias(node: ir.Node, bias: Array) -> ir.Value:
    """Give the node its new bias, and return the value that includes it."""
    if node.op_type != "MatMul":
        set_constant_input(node, 2, bias, f"{label(node)}_bias")
        node.attributes.pop("beta", None)  # a Gemm's beta is in the new bias already
        return node.outputs[0]
    graph = node.graph
    assert graph is not None
    constant = add_initializer(graph, bias, unique_name(graph, f"{label(node)}_bias"))
    add = ir.Node("", "Add", [node.outputs[0], constant])
    graph.insert_after(node, add)
    return add.outputs[0]
