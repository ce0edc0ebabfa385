"""Rewrite a mean over height and width as global average pooling."""

from __future__ import annotations

import onnx_ir as ir

from exporter.passes import Kept, PassReport
from exporter.passes.constants import constant_array, drop_unused_constants, label, unique_name


class MeanToPool(ir.passes.InPlacePass):
    """Rewrite ReduceMean over the last two of four axes as GlobalAveragePool.

    Both are the mean of each channel. Runtimes have an integer kernel only for the pooling, but
    Keras' GlobalAveragePooling2D is converted to a ReduceMean. Without keepdims, a Flatten is
    added.

    It must not fire on other axes, if the axes aren't constant, or if the input isn't known to
    have rank 4 (shapes must have been inferred).

    Attributes:
        report: report of the latest call; `applied` names the means.
    """

    def __init__(self) -> None:
        """Take no options."""
        self.report = PassReport("mean_to_pool")

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Rewrite each ReduceMean."""
        self.report = PassReport("mean_to_pool")
        for node in tuple(model.graph):
            self._try_rewrite(node)
        if self.report.applied:
            drop_unused_constants(model.graph)
        return ir.passes.PassResult(model, modified=bool(self.report.applied))

    def _try_rewrite(self, node: ir.Node) -> bool:
        if node.op_type != "ReduceMean" or node.domain != "":
            return False
        reason = _refusal(node)
        if reason is not None:
            self.report.kept.append(Kept(label(node), reason))
            return False
        self.report.applied.append(label(node))
        keeps = bool(node.attributes.get_int("keepdims", 1))
        node.op_type = "GlobalAveragePool"
        node.attributes.clear()
        node.resize_inputs(1)
        if not keeps:
            _flatten(node)
        return True


def _refusal(node: ir.Node) -> str | None:
    source = node.inputs[0]
    if source is None or source.shape is None:
        return "rank of its input isn't known"
    if source.dtype is not None and not source.dtype.is_floating_point():
        return f"no pooling takes {source.dtype.name}"
    rank = len(source.shape)
    if rank != 4:
        return f"input has rank {rank}"
    axes = _axes(node)
    if axes is None:
        return "axes aren't constant"
    if {axis % rank for axis in axes} != {2, 3}:
        return f"axes {axes} aren't height and width"
    return None


def _axes(node: ir.Node) -> list[int] | None:
    given = node.inputs[1] if len(node.inputs) > 1 else None
    if given is None:
        return list(node.attributes.get_ints("axes", []))
    array = constant_array(given)
    return None if array is None else [int(axis) for axis in array.ravel()]


def _flatten(node: ir.Node) -> None:
    """Drop the two axes of size 1; the result keeps the mean's name."""
    graph, value = node.graph, node.outputs[0]
    assert graph is not None
    flatten = ir.Node("", "Flatten", [None], [ir.AttrInt64("axis", 1)])
    result = flatten.outputs[0]
    flatten.name = f"{label(node)}/Flatten"
    result.shape, result.type = value.shape, value.type
    name = value.name
    value.name = unique_name(graph, f"{name}_pooled")
    result.name = name
    ir.convenience.replace_all_uses_with(value, result, replace_graph_outputs=True)
    flatten.replace_input_with(0, value)
    graph.insert_after(node, flatten)
    if value.shape is not None and len(value.shape) == 2:
        value.shape = ir.Shape([*value.shape, 1, 1])
