"""Evaluate nodes that don't depend on the input in float64, and store the results."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
import onnx_ir as ir
from onnx.reference import ReferenceEvaluator

from exporter.passes import Kept, PassReport
from exporter.passes.constants import (
    Array,
    add_initializer,
    constant_array,
    drop_unused_constants,
    label,
)

MAX_GROWTH = 16
"""A result larger than this many times its inputs, and than MAX_GROWN_BYTES, isn't stored."""
MAX_GROWN_BYTES = 1_000_000

# fmt: off
# Computed in float64 if the model says float32. Inputs and outputs of each have the same type.
_ARITHMETIC = frozenset({
    "Abs", "Add", "Ceil", "Clip", "Div", "Erf", "Exp", "Floor", "Log", "Max", "Mean", "Min",
    "Mul", "Neg", "Pow", "Reciprocal", "ReduceL1", "ReduceL2", "ReduceMax", "ReduceMean",
    "ReduceMin", "ReduceProd", "ReduceSum", "ReduceSumSquare", "Relu", "Round", "Sigmoid",
    "Sign", "Softplus", "Sqrt", "Sub", "Sum", "Tanh", "MatMul",
})
# These move elements but don't change them: float64 passes through, float32 isn't promoted.
_LAYOUT = frozenset({
    "Concat", "Expand", "Flatten", "Gather", "Identity", "Reshape", "Slice", "Split",
    "Squeeze", "Tile", "Transpose", "Unsqueeze",
})
_RANDOM = frozenset({
    "Bernoulli", "Dropout", "Multinomial", "RandomNormal", "RandomNormalLike",
    "RandomUniform", "RandomUniformLike",
})
# Folding these would undo the graph's quantization.
_QUANTIZATION = frozenset({
    "DequantizeLinear", "DynamicQuantizeLinear", "QuantizeLinear",
})
# onnx 1.23's reference evaluator gives wrong results for ConvTranspose with groups, a Softmax
# before opset 13, LRN and some pooling. Networks apply none of these to constants.
_UNTRUSTED = frozenset({
    "AveragePool", "Conv", "ConvTranspose", "Hardmax", "LRN", "LogSoftmax", "LpPool", "MaxPool",
    "Softmax",
})
# fmt: on


@dataclass(frozen=True)
class _Constant:
    """An array and its dtype in the graph, which is float32 if the array carries float64."""

    array: Array
    dtype: np.dtype[np.generic]

    @property
    def nbytes(self) -> int:
        return self.array.size * self.dtype.itemsize

    def rounded(self) -> Array:
        with np.errstate(over="ignore"):  # an overflow gives inf, as in float32 arithmetic
            return self.array.astype(self.dtype, copy=False)


class FoldConstants(ir.passes.InPlacePass):
    """Replace each node whose inputs are all constant by its value.

    y = f(c1, ..., cn) with all c constant becomes an initializer named y. A chain of float32
    arithmetic, such as a batch norm's gamma / sqrt(var + epsilon), is computed in float64 from
    node to node. It is rounded to float32 only once, where a remaining node or the graph's output
    reads it. So the error is half a unit in the last place in all, instead of half a unit per
    node. Nodes that only move elements (a weight's Transpose) keep their dtype, so that large
    weights don't take twice the memory.

    It must not fire on initializers that are also graph inputs (the caller may feed them), random
    ops, ops of other domains, ops with subgraphs, nodes inside subgraphs or functions, Quantize-
    and DequantizeLinear (folding would undo the quantization), results that aren't plain number
    tensors, and results above 1 MB that are more than 16 times as large as the inputs (Expand,
    ConstantOfShape, Tile). The latter are cheaper to compute than to ship.

    Attributes:
        report: report of the latest call; `applied` names the folded nodes.
    """

    def __init__(self) -> None:
        """Take no options."""
        self.report = PassReport("fold_constants")
        self._folded: dict[ir.Value, _Constant] = {}
        self._opsets: dict[str, int] = {}

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Fold in graph order, then store what the remaining nodes read."""
        self.report = PassReport("fold_constants")
        self._folded, self._opsets = {}, dict(model.opset_imports)
        folded = [node for node in model.graph if self._try_fold(node)]
        self._store(model.graph, folded)
        self._folded = {}
        return ir.passes.PassResult(model, modified=bool(folded))

    def _try_fold(self, node: ir.Node) -> bool:
        constants = self._constant_inputs(node)
        if not constants:
            return False
        results = self._evaluate(node, constants)
        if isinstance(results, str):
            self.report.kept.append(Kept(label(node), results))
            return False
        self._folded.update(zip(_outputs(node), results, strict=True))
        self.report.applied.append(label(node))
        return True

    def _constant_inputs(self, node: ir.Node) -> dict[str, _Constant]:
        """Return the inputs by name; empty if one isn't constant or there are none."""
        found: dict[str, _Constant] = {}
        for value in node.inputs:
            if value is None:
                continue
            constant = self._constant(value)
            if constant is None:
                return {}
            found[value.name or ""] = constant
        return found

    def _constant(self, value: ir.Value) -> _Constant | None:
        if value in self._folded:
            return self._folded[value]
        array = constant_array(value)
        return None if array is None else _Constant(array, array.dtype)

    def _evaluate(self, node: ir.Node, inputs: dict[str, _Constant]) -> list[_Constant] | str:
        reason = _refusal(node) or _too_big(_predicted_bytes(node, inputs), inputs)
        if reason:
            return reason
        if _is_float_cast(node) and _carries(inputs.values()):
            return list(inputs.values())
        feeds, carried = _feeds(node, inputs)
        try:
            arrays = _run(node, feeds, self._opsets)
        # The reference evaluator raises these for an op that it doesn't implement.
        except (NotImplementedError, RuntimeError) as error:
            return f"onnx's reference evaluator can't compute {node.op_type}: {error}"
        if not all(isinstance(array, np.ndarray | np.generic) for array in arrays):
            return "result isn't a tensor"
        arrays = [np.asarray(array) for array in arrays]
        if any(array.dtype.kind in "OSU" for array in arrays):
            return "result isn't numeric"
        results = [_Constant(array, _graph_dtype(array, carried)) for array in arrays]
        return _too_big(sum(result.nbytes for result in results), inputs) or results

    def _store(self, graph: ir.Graph, folded: Sequence[ir.Node]) -> None:
        gone = set(folded)
        for node in folded:
            for value in _outputs(node):
                if value.is_graph_output() or any(user not in gone for user in value.consumers()):
                    _replace_by_initializer(graph, value, self._folded[value].rounded())
        graph.remove(folded, safe=True)
        drop_unused_constants(graph)


def _replace_by_initializer(graph: ir.Graph, value: ir.Value, array: Array) -> None:
    name = value.name
    assert name is not None, "a value in a graph has a name"
    constant = add_initializer(graph, array, name)
    ir.convenience.replace_all_uses_with(value, constant, replace_graph_outputs=True)


def _outputs(node: ir.Node) -> list[ir.Value]:
    return [value for value in node.outputs if value.name]


def _refusal(node: ir.Node) -> str | None:
    if node.domain != "":
        return f"op of domain {node.domain}"
    if node.op_type in _RANDOM:
        return "random"
    if node.op_type in _QUANTIZATION:
        return "quantization is kept for the target"
    if node.op_type in _UNTRUSTED:
        return "onnx's reference evaluator isn't trusted with it"
    if any(attr.type in _GRAPH_ATTRIBUTES for attr in node.attributes.values()):
        return "has a subgraph"
    return None


_GRAPH_ATTRIBUTES = frozenset({ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS})


def _is_float_cast(node: ir.Node) -> bool:
    return node.op_type == "Cast" and node.attributes.get_int("to", 0) == ir.DataType.FLOAT


def _carries(constants: Iterable[_Constant]) -> bool:
    return any(constant.array.dtype != constant.dtype for constant in constants)


def _feeds(node: ir.Node, inputs: dict[str, _Constant]) -> tuple[dict[str, Array], bool]:
    """Return the arrays to compute with, and whether a float64 result stands for float32."""
    floats = {c.dtype for c in inputs.values() if c.dtype.kind == "f"}
    if floats != {np.dtype(np.float32)} or node.op_type not in _ARITHMETIC | _LAYOUT:
        return {name: c.rounded() for name, c in inputs.items()}, False
    if node.op_type in _LAYOUT and not _carries(inputs.values()):
        return {name: c.array for name, c in inputs.items()}, False
    return {name: _promoted(c) for name, c in inputs.items()}, True


def _promoted(constant: _Constant) -> Array:
    if constant.dtype.kind != "f":
        return constant.array
    return constant.array.astype(np.float64, copy=False)


def _graph_dtype(array: Array, carried: bool) -> np.dtype[np.generic]:
    if carried and array.dtype == np.float64:
        return np.dtype(np.float32)
    return array.dtype


def _run(node: ir.Node, feeds: dict[str, Array], opsets: dict[str, int]) -> list[Array]:
    # Not the bare node: for that, ReferenceEvaluator would take the newest opset.
    function = onnx.helper.make_function(
        domain="fold_constants",
        fname="one_node",
        inputs=list(feeds),
        outputs=[value.name or "" for value in _outputs(node)],
        nodes=[ir.to_proto(node)],
        opset_imports=[onnx.helper.make_opsetid("", opsets.get("", 1))],
    )
    with np.errstate(all="ignore"):  # inf and nan are what the graph would compute
        return list(ReferenceEvaluator(function).run(None, feeds, attributes={}))


def _predicted_bytes(node: ir.Node, inputs: dict[str, _Constant]) -> int:
    """Return the result's size for ops that can turn a few bytes into gigabytes; 0 for others."""
    constants = list(inputs.values())
    first, last = constants[0], constants[-1]
    if node.op_type == "ConstantOfShape":
        return int(np.prod(first.array, dtype=object)) * _fill_itemsize(node)
    if node.op_type == "Expand":
        shape = np.broadcast_shapes(first.array.shape, tuple(last.array.tolist()))
        return int(np.prod(shape, dtype=object)) * first.dtype.itemsize
    if node.op_type == "Tile":
        return int(np.prod(last.array, dtype=object)) * first.nbytes
    if node.op_type == "Range" and len(constants) == 3:
        start, limit, delta = (c.array.item() for c in constants)
        return int(max((limit - start) / delta, 0)) * first.dtype.itemsize
    return 0


def _fill_itemsize(node: ir.Node) -> int:
    fill = node.attributes.get_tensor("value")
    return 4 if fill is None else int(fill.dtype.itemsize)


def _too_big(nbytes: int, inputs: dict[str, _Constant]) -> str | None:
    limit = max(MAX_GROWN_BYTES, MAX_GROWTH * sum(c.nbytes for c in inputs.values()))
    if nbytes > limit:
        return f"result of {nbytes} bytes is far larger than the inputs"
    return None
