"""Give image inputs the NCHW layout."""

from __future__ import annotations

import onnx_ir as ir

from exporter.passes import PassReport


class NchwInputs(ir.passes.InPlacePass):
    """Replace each rank-4 input x (NHWC) by x' (NCHW) with x = Transpose(x', (0, 2, 3, 1)).

    SinkTransposes then cancels that Transpose with the one in front of the first convolution,
    so that an NCHW feed reaches it without a copy. Inputs of any other rank have no image
    layout and are not changed.
    """

    def __init__(self) -> None:
        """Take no options."""
        self.report = PassReport("nchw_inputs")

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Transpose every rank-4 input."""
        self.report = PassReport("nchw_inputs")
        for index, value in enumerate(tuple(model.graph.inputs)):
            if value.shape is not None and len(value.shape) == 4:
                self._transpose(model.graph, index, value)
        return ir.passes.PassResult(model, modified=bool(self.report.applied))

    def _transpose(self, graph: ir.Graph, index: int, old: ir.Value) -> None:
        name = str(old.name)
        assert old.shape is not None
        n, h, w, c = old.shape
        new = ir.Value(name=name, shape=ir.Shape([n, c, h, w]), type=old.type)
        node = ir.node(
            "Transpose", [new], attributes={"perm": [0, 2, 3, 1]}, name=f"{name}_to_nhwc"
        )
        node.outputs[0].shape, node.outputs[0].type = old.shape, old.type
        node.outputs[0].name = old.name = f"{name}_nhwc"
        graph.insert_before(graph[0], node)
        ir.convenience.replace_all_uses_with(old, node.outputs[0])
        graph.inputs[index] = new
        self.report.applied.append(name)
