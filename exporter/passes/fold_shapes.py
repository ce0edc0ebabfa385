"""Compute known sizes at export, and leave out what they show to do nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from exporter.passes import Kept, PassReport
from exporter.passes.constants import (
    constant_array,
    drop_unused_constants,
    label,
    set_constant_input,
)

Partial = npt.NDArray[np.object_]
"""Whole numbers of at most one axis, with None where a number is not known."""


class FoldShapes(ir.passes.InPlacePass):
    """Replace sizes that a graph computes by constants, as far as they are known.

    tf2onnx computes shapes at run time (Shape, Slice, Concat, Sub and so on), because a batch
    size is open. We follow these numbers one by one. If all of an input are known, it becomes a
    constant. The shape of a Reshape may have one that is not, which becomes -1: ONNX infers it
    from the number of elements. A Slice that takes everything, and a Pad by nothing, then go.

    It must not fire on a Reshape if two sizes are unknown or one is 0, where -1 can't be
    inferred; on numbers of more than one axis; and inside subgraphs. A graph without a Shape is
    left as it is, to the byte.

    Attributes:
        report: of the latest call; `applied` names the nodes that got constants.
    """

    def __init__(self) -> None:
        """Take no options."""
        self.report = PassReport("fold_shapes")

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Fold until nothing changes: each constant lets inference get past one more node."""
        from onnx_ir.passes import common

        self.report = PassReport("fold_shapes")
        changed = True
        while changed and any(node.op_type == "Shape" for node in model.graph):
            common.ShapeInferencePass()(model)
            known = _evaluate(model.graph)
            self.report.kept = []
            changed = any([self._try_fold(node, known) for node in tuple(model.graph)])  # noqa: C419
            common.RemoveUnusedNodesPass()(model)
        if self.report.applied:
            drop_unused_constants(model.graph)
        return ir.passes.PassResult(model, modified=bool(self.report.applied))

    def _try_fold(self, node: ir.Node, known: dict[ir.Value, Partial]) -> bool:
        if node.domain != "" or node.outputs[0] in known:  # those go if nothing reads them
            return False
        changed = False
        for index, value in enumerate(node.inputs):
            if value is None or value not in known or constant_array(value) is not None:
                continue
            array = _constant(node, index, known[value])
            if isinstance(array, str):
                self.report.kept.append(Kept(label(node), array))
                continue
            dtype = np.int64 if value.dtype is None else value.dtype.numpy()
            hint = f"{label(node)}_input{index}"
            set_constant_input(node, index, array.astype(dtype), hint)
            changed = True
        if changed:
            self.report.applied.append(label(node))
        return _try_bypass(node) or changed


def _constant(node: ir.Node, index: int, numbers: Partial) -> Partial | str:
    """Return the constant for an input, or the reason why there is none."""
    unknown = sum(number is None for number in numbers.ravel())
    if unknown == 0:
        return numbers
    if node.op_type != "Reshape" or index != 1:
        return "needs a size that is open"
    if unknown > 1:
        return "several sizes are open"
    if 0 in numbers or -1 in numbers:
        return "a size is 0 or inferred, besides one that is open"
    return np.array([-1 if number is None else number for number in numbers], object)


def _try_bypass(node: ir.Node) -> bool:
    """Take a node that gives what it gets out of the graph."""
    value, source = node.outputs[0], node.inputs[0] if node.inputs else None
    if source is None or value.is_graph_output() or not _does_nothing(node, source):
        return False
    ir.convenience.replace_all_uses_with(value, source)
    return True


def _does_nothing(node: ir.Node, source: ir.Value) -> bool:
    given = [constant_array(value) for value in node.inputs[1:]]
    if node.op_type == "Pad":
        return bool(given) and given[0] is not None and not given[0].any()
    if node.op_type != "Slice" or source.shape is None or any(each is None for each in given):
        return False
    starts, ends, *rest = (each.tolist() for each in given if each is not None)
    axes = rest[0] if rest else range(len(starts))
    steps = rest[1] if len(rest) > 1 else [1] * len(starts)
    sizes = [source.shape[axis] for axis in axes]
    return all(
        start == 0 and step == 1 and isinstance(size, int) and end >= size
        for start, end, step, size in zip(starts, ends, steps, sizes, strict=True)
    )


def _evaluate(graph: ir.Graph) -> dict[ir.Value, Partial]:
    """Follow the whole numbers that start at a Shape, in graph order."""
    known: dict[ir.Value, Partial] = {}
    for node in graph:
        rule = _RULES.get(node.op_type) if node.domain == "" else None
        if node.op_type == "Shape" and node.inputs[0] is not None and node.inputs[0].shape:
            known[node.outputs[0]] = _sizes(node, node.inputs[0].shape)
        elif rule is not None and any(value in known for value in node.inputs):
            inputs = [_numbers(value, known) for value in node.inputs]
            result = None if any(each is None for each in inputs) else rule(node, inputs)
            if result is not None and result.ndim <= 1:
                known[node.outputs[0]] = result
    return known


def _sizes(node: ir.Node, shape: ir.Shape) -> Partial:
    sizes = [size if isinstance(size, int) else None for size in shape]
    end = node.attributes.get_int("end")
    part = sizes[node.attributes.get_int("start", 0) : len(sizes) if end is None else end]
    return np.array(part, object)


def _numbers(value: ir.Value | None, known: dict[ir.Value, Partial]) -> Partial | None:
    if value is None or value in known:
        return None if value is None else known[value]
    array = constant_array(value)
    whole = array is not None and array.dtype.kind in "iu" and array.ndim <= 1
    return array.astype(object) if array is not None and whole else None


def _slice(node: ir.Node, inputs: list[Any]) -> Partial | None:
    data, starts, ends, *rest = inputs
    step = rest[1] if len(rest) > 1 else np.array([1])
    if any(each.size != 1 or each.item() is None for each in (starts, ends, step)):
        return None
    part: Partial = data[starts.item() : ends.item() : step.item()]
    return part


def _gather(node: ir.Node, inputs: list[Any]) -> Partial | None:
    data, indices = inputs
    if any(index is None for index in indices.ravel()):
        return None
    return np.array(data[indices.astype(np.int64)], object)


def _concat(node: ir.Node, inputs: list[Any]) -> Partial | None:
    return np.concatenate(inputs) if all(each.ndim == 1 for each in inputs) else None


def _cast(node: ir.Node, inputs: list[Any]) -> Partial | None:
    to = ir.DataType(node.attributes.get_int("to", 0))
    return inputs[0] if to in (ir.DataType.INT32, ir.DataType.INT64) else None


def _squeeze(node: ir.Node, inputs: list[Any]) -> Partial | None:
    return inputs[0].reshape(()) if inputs[0].size == 1 else None


def _unsqueeze(node: ir.Node, inputs: list[Any]) -> Partial | None:
    return inputs[0].reshape(1) if inputs[0].ndim == 0 and inputs[1].size == 1 else None


def _element_wise(compute: Callable[..., int]) -> Callable[[ir.Node, list[Any]], Partial | None]:
    def one(*numbers: int | None) -> int | None:
        given = [number for number in numbers if number is not None]
        return compute(*given) if len(given) == len(numbers) else None

    def rule(node: ir.Node, inputs: list[Any]) -> Partial | None:
        return np.array(np.frompyfunc(one, len(inputs), 1)(*inputs), object)

    return rule


def _divide(one: int, by: int) -> int:
    """Divide towards zero, as ONNX divides whole numbers; sizes by 0 are not sizes."""
    return int(one / by) if by else 0


_RULES: dict[str, Callable[[ir.Node, list[Any]], Partial | None]] = {
    "Slice": _slice,
    "Gather": _gather,
    "Concat": _concat,
    "Cast": _cast,
    "Identity": lambda node, inputs: inputs[0],
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "Add": _element_wise(lambda a, b: a + b),
    "Sub": _element_wise(lambda a, b: a - b),
    "Mul": _element_wise(lambda a, b: a * b),
    "Div": _element_wise(_divide),
    "Neg": _element_wise(lambda a: -a),
    "Max": _element_wise(max),
    "Min": _element_wise(min),
}
