"""Correct biases by the measured shift that quantization causes in the channel means."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from exporter.passes import Kept, PassReport
from exporter.passes.constants import Array, label, set_constant_input
from exporter.passes.linear import Linear, read_linear, read_parameters
from exporter.passes.placement import place
from exporter.passes.schemes import Scheme


def outputs_to_measure(model: ir.Model, scheme: Scheme) -> dict[str, tuple[str, int]]:
    """Return (output tensor, channel axis) of each linear node that InsertQdq quantizes."""
    return {
        label(linear.node): (str(linear.node.outputs[0].name), linear.axis)
        for linear in place(model, scheme).linears
    }


class AddBias(ir.passes.InPlacePass):
    """Add a constant to the output channels of linear nodes, in their bias.

    A node without a bias gets one. A bias that another node uses too is not changed: this node
    gets its own. The pass runs before InsertQdq, which quantizes the new bias as its scheme wants.

    It must not fire on a MatMul, which has no bias, or if the bias isn't constant. Each such node
    is in `report.kept`.

    Attributes:
        report: report of the latest call; `applied` names the linear nodes.
    """

    def __init__(self, additions: Mapping[str, Array]) -> None:
        """Take float64 [channels] by node name. Other nodes are ignored and not reported."""
        self.report = PassReport("add_bias")
        self._additions = additions

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Add to each named node's bias."""
        self.report = PassReport("add_bias")
        for node in tuple(model.graph):
            linear = read_linear(node)
            if linear is not None and label(node) in self._additions:
                reason = _add(linear, self._additions[label(node)])
                if reason is None:
                    self.report.applied.append(label(node))
                else:
                    self.report.kept.append(Kept(label(node), reason))
        return ir.passes.PassResult(model, modified=bool(self.report.applied))


def _add(linear: Linear, addition: Array) -> str | None:
    """Add to the bias, or return the reason why that isn't possible."""
    node = linear.node
    if node.op_type == "MatMul":
        return "a MatMul has no bias"
    parameters = read_parameters(linear)
    if isinstance(parameters, str):
        return parameters
    old = np.zeros(()) if parameters.bias is None else parameters.bias
    bias = np.broadcast_to(old + addition, (linear.channels,))
    set_constant_input(node, 2, bias.astype(parameters.weight.dtype), f"{label(node)}_bias")
    node.attributes.pop("beta", None)  # a Gemm's beta is in the new bias already
    return None
