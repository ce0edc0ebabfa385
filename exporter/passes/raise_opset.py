"""Raise a graph's opset to the first one that allows FP16 scales in quantization."""

from __future__ import annotations

import onnx_ir as ir

from exporter.errors import WrongUse
from exporter.passes import PassReport

OLDEST = 18
HALF_OPSET = 19
"""The lowest opset that allows FP16 scales of Q and DQ, and so the most widely supported one.
TensorRT's parser reads up to opset 19 (TensorRT 9.2), 20 (10.0), 24 (10.15) and 25 (11).
onnxruntime 1.23 reads up to 23."""
_IR_VERSION = 9
"""The first IR version that supports opset 19."""


class RaiseOpset(ir.passes.InPlacePass):
    """Declare opset 19 if the graph has 18.

    From 18 to 19, ops only gained types, and attributes whose defaults mean the same as before (a
    test checks this against onnx's own schemas). So the nodes need no change and keep their names
    and metadata. onnx's version converter would drop both, and copy the weights.

    It must not fire on a graph of opset 19 or newer.

    Attributes:
        report: report of the latest call; `applied` has the graph's name.
    """

    def __init__(self) -> None:
        """Take no options."""
        self.report = PassReport("raise_opset")

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Change the opset number.

        Raises:
            WrongUse: the opset is older than 18. Ops have changed since then.
        """
        self.report = PassReport("raise_opset")
        opset = model.opset_imports.get("", 1)
        if opset >= HALF_OPSET:
            return ir.passes.PassResult(model, modified=False)
        if opset < OLDEST:
            raise WrongUse(
                f"the graph has opset {opset}, but FP16 needs opset {HALF_OPSET}",
                hint="first raise it to 18 with onnx.version_converter.convert_version",
            )
        model.opset_imports[""] = HALF_OPSET
        model.ir_version = max(model.ir_version, _IR_VERSION)
        self.report.applied.append(str(model.graph.name))
        return ir.passes.PassResult(model, modified=True)
