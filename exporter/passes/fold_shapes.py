"""Give a Reshape a constant shape when only one size, such as the batch, is open."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from exporter.passes import Kept, PassReport
from exporter.passes.constants import (
    constant_array,
    drop_unused_constants,
    label,
    set_constant_input,
)


class FoldShapes(ir.passes.InPlacePass):
    """Replace a computed target shape of a Reshape by a constant.

    Reshape(x, s) = Reshape(x, c) where c is s, with -1 in place of the one size that is not
    known: ONNX infers that size from the number of elements. tf2onnx computes shapes at run time
    (Shape, Slice, Concat), because a batch size is open. Shape inference with data propagation
    knows all other sizes. The nodes that computed the shape go if nothing else reads them.

    It must not fire if two sizes are unknown, or a known size is 0: -1 can't be inferred then.

    Attributes:
        report: of the latest call; `applied` names the Reshapes.
    """

    def __init__(self) -> None:
        """Take no options."""
        self.report = PassReport("fold_shapes")

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Fold in graph order; each constant shape lets inference get past the next node."""
        from onnx_ir.passes import common

        self.report = PassReport("fold_shapes")
        while computed := [node for node in model.graph if _has_computed_shape(node)]:
            # Only now: inference writes shapes into a graph that may need none.
            common.ShapeInferencePass()(model)
            folded = [node for node in computed if self._try_fold(node)]
            if not folded:
                break
        self.report.kept = [Kept(label(node), str(_sizes(node))) for node in computed]
        if self.report.applied:
            common.RemoveUnusedNodesPass()(model)
            drop_unused_constants(model.graph)
        return ir.passes.PassResult(model, modified=bool(self.report.applied))

    def _try_fold(self, node: ir.Node) -> bool:
        sizes = _sizes(node)
        if isinstance(sizes, str):
            return False
        self.report.applied.append(label(node))
        set_constant_input(node, 1, np.array(sizes, np.int64), f"{label(node)}_shape")
        node.attributes.pop("allowzero", None)
        return True


def _has_computed_shape(node: ir.Node) -> bool:
    is_reshape = node.op_type == "Reshape" and node.domain == ""
    return is_reshape and constant_array(node.inputs[1]) is None


def _sizes(node: ir.Node) -> list[int] | str:
    """Return the sizes with at most one -1, or the reason why there are none."""
    shape = node.outputs[0].shape
    if shape is None:
        return "the rank of its output isn't known"
    sizes = [size if isinstance(size, int) else -1 for size in shape]
    if sizes.count(-1) > 1:
        return f"several sizes are open: {shape}"
    return "a size is 0" if 0 in sizes else sizes
