"""Remove nodes that only give a value another name."""

from __future__ import annotations

import onnx_ir as ir

from exporter.passes import PassReport
from exporter.passes.constants import label


class DropIdentities(ir.passes.InPlacePass):
    """Let the readers of an Identity read its input.

    The names of the graph's outputs stay. It must not fire if the Identity is what keeps two
    outputs apart, or an output apart from a graph input: no value in ONNX has two names. (The pass
    of onnx-ir merges two outputs into one.)

    Attributes:
        report: of the latest call; `applied` names the Identities.
    """

    def __init__(self) -> None:
        """Take no options."""
        self.report = PassReport("drop_identities")

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Remove in graph order."""
        self.report = PassReport("drop_identities")
        for node in tuple(model.graph):
            if node.op_type == "Identity" and node.domain == "":
                self._try_drop(node)
        return ir.passes.PassResult(model, modified=bool(self.report.applied))

    def _try_drop(self, node: ir.Node) -> bool:
        source, value, graph = node.inputs[0], node.outputs[0], node.graph
        assert source is not None
        assert graph is not None
        if value.is_graph_output():
            if source.producer() is None or source.is_graph_output():
                return False
            name = value.name
        else:
            name = source.name
        ir.convenience.replace_all_uses_with(value, source, replace_graph_outputs=True)
        source.shape = source.shape or value.shape
        source.type = source.type or value.type
        self.report.applied.append(label(node))
        graph.remove(node, safe=True)
        source.name = name
        return True
