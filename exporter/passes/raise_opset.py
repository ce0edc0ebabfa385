"""Raise a graph's opset to the first in which quantization may have FP16 scales."""

from __future__ import annotations

import onnx_ir as ir

from exporter.errors import WrongUse
from exporter.passes import PassReport

OLDEST = 18
HALF_OPSET = 19
"""The lowest that types a Q/DQ scale FP16, and so the most widely read: the parser of TensorRT
9.2 reads up to opset 19, 10.0 to 20, 10.15 to 24 and 11 to 25; onnxruntime 1.23 reads up to 23.
"""
_IR_VERSION = 9
"""The first that opset 19 may be written in."""


class RaiseOpset(ir.passes.InPlacePass):
    """Declare opset 19 where the graph has 18.

    From 18 to 19 no op took anything away: types were added, and attributes whose defaults mean
    what 18 did (a test holds that against onnx's own schemas). So the nodes stay as they are,
    names and metadata with them, which onnx's version converter drops while it copies the weights.

    It must not fire on a graph of opset 19 or newer.

    Attributes:
        report: of the latest call; `applied` has the graph's name.
    """

    def __init__(self) -> None:
        """Take no options."""
        self.report = PassReport("raise_opset")

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Change the number.

        Raises:
            WrongUse: the opset is older than 18, from which ops did change.
        """
        self.report = PassReport("raise_opset")
        opset = model.opset_imports.get("", 1)
        if opset >= HALF_OPSET:
            return ir.passes.PassResult(model, modified=False)
        if opset < OLDEST:
            raise WrongUse(
                f"the graph has opset {opset}; FP16 needs {HALF_OPSET}",
                hint="raise it to 18 with onnx.version_converter.convert_version first",
            )
        model.opset_imports[""] = HALF_OPSET
        model.ir_version = max(model.ir_version, _IR_VERSION)
        self.report.applied.append(str(model.graph.name))
        return ir.passes.PassResult(model, modified=True)
