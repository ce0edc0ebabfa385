"""Restore the original weights and biases of linear nodes."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import onnx_ir as ir

from exporter.passes import PassReport
from exporter.passes.constants import (
    Array,
    constant_array,
    drop_unused_constants,
    label,
    set_constant_input,
)
from exporter.passes.linear import bias_value, read_linear


class RestoreWeights(ir.passes.InPlacePass):
    """Copy the constants of named linear nodes from another state of the same graph.

    Weights that were rounded for integers, and biases that were corrected for their mean error,
    are wrong for a layer that stays in float. The pass runs before InsertQdq.

    It must not fire if a constant is unchanged, as weights that several nodes share are, or if
    the original wasn't constant.

    Attributes:
        report: report of the latest call; `applied` names the nodes that were restored.
    """

    def __init__(self, original: ir.Model, names: Collection[str]) -> None:
        """Take the original graph, which is not changed, and the names of nodes."""
        self.report = PassReport("restore_weights")
        self._original, self._names = original, frozenset(names)

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Restore one node after the other."""
        self.report = PassReport("restore_weights")
        before = {label(node): node for node in self._original.graph if label(node) in self._names}
        for node in model.graph:
            old = before.get(label(node))
            if old is not None and read_linear(node) is not None and _restore(node, old):
                self.report.applied.append(label(node))
        drop_unused_constants(model.graph)
        return ir.passes.PassResult(model, modified=bool(self.report.applied))


def _restore(node: ir.Node, before: ir.Node) -> bool:
    """Restore the constants that differ, and return whether there were any."""
    changed = False
    for index, hint in ((1, "weight"), (2, "bias")):
        old, now = (_constant(each, index) for each in (before, node))
        if old is not None and not (now is not None and np.array_equal(old, now)):
            set_constant_input(node, index, old, f"{label(node)}_{hint}")
            changed = True
    if bias_value(before) is None and bias_value(node) is not None:
        node.resize_inputs(2)
        changed = True
    if "beta" in before.attributes:  # only a Gemm has one
        node.attributes["beta"] = before.attributes["beta"]
    return changed


def _constant(node: ir.Node, index: int) -> Array | None:
    return constant_array(node.inputs[index]) if index < len(node.inputs) else None
