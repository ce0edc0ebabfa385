"""Join a dense layer's MatMul and Add into one Gemm."""

from __future__ import annotations

import onnx_ir as ir

from exporter.passes import Kept, PassReport
from exporter.passes.constants import (
    constant_array,
    drop_unused_constants,
    label,
    set_constant_input,
    used_once,
)


class DenseToGemm(ir.passes.InPlacePass):
    """Rewrite x @ W + b as Gemm(x, W, b), because onnxruntime's integer kernel for it has a bias.

    Otherwise the bias stays a float Add after the MatMul, which needs a dequantization. A MatMul
    without Add becomes a Gemm of two inputs.

    It must not fire if x isn't known to have rank 2 (shapes must have been inferred), if W isn't
    a constant matrix, or if the weight is the MatMul's first input. The Add stays if the MatMul's
    output is used elsewhere, or if b isn't one constant per column.

    Attributes:
        report: report of the latest call; `applied` names the MatMuls.
    """

    def __init__(self) -> None:
        """Take no options."""
        self.report = PassReport("dense_to_gemm")

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Rewrite each MatMul that is a dense layer."""
        self.report = PassReport("dense_to_gemm")
        for node in tuple(model.graph):
            self._try_join(node)
        if self.report.applied:
            drop_unused_constants(model.graph)
        return ir.passes.PassResult(model, modified=bool(self.report.applied))

    def _try_join(self, node: ir.Node) -> bool:
        if node.op_type != "MatMul" or node.domain != "":
            return False
        weight = constant_array(node.inputs[1])
        if weight is None or weight.ndim != 2:
            return False
        rank = _rank(node)
        if rank != 2:
            reason = "rank of its input isn't known" if rank is None else f"input has rank {rank}"
            self.report.kept.append(Kept(label(node), reason))
            return False
        self.report.applied.append(label(node))
        node.op_type = "Gemm"
        add = _bias_add(node, weight.shape[1])
        if add is not None:
            _absorb(node, add)
        return True


def _rank(node: ir.Node) -> int | None:
    shapes = [value.shape for value in (node.inputs[0], node.outputs[0]) if value is not None]
    return next((len(shape) for shape in shapes if shape is not None), None)


def _bias_add(node: ir.Node, columns: int) -> ir.Node | None:
    value = node.outputs[0]
    add = value.consumers()[0] if used_once(value) else None
    if add is None or add.op_type != "Add" or add.domain != "" or add.graph is not node.graph:
        return None
    bias = constant_array(_other_input(add, value))
    fits = bias is not None and bias.shape in ((columns,), (1, columns))
    return add if fits else None


def _absorb(node: ir.Node, add: ir.Node) -> None:
    graph, old, result = node.graph, add.outputs[0], node.outputs[0]
    assert graph is not None
    bias = _other_input(add, result)
    node.resize_inputs(3)
    node.replace_input_with(2, bias)
    if bias is not None and bias.producer() is not None:  # a Constant node, maybe after this one
        array = constant_array(bias)
        assert array is not None
        set_constant_input(node, 2, array, f"{label(node)}_bias")
    name, result.shape, result.type = old.name, old.shape or result.shape, old.type or result.type
    ir.convenience.replace_all_uses_with(old, result, replace_graph_outputs=True)
    graph.remove(add, safe=True)
    result.name = name


def _other_input(add: ir.Node, value: ir.Value) -> ir.Value | None:
    return add.inputs[1] if add.inputs[0] is value else add.inputs[0]
