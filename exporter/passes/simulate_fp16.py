"""Rewrite FP16 as float32 arithmetic with rounding, for runtimes without FP16."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir

from exporter.passes import PassReport
from exporter.passes._fp16_rules import MOVING
from exporter.passes.constants import constant_array, label
from exporter.passes.qdq import is_op

_FLOAT, _HALF = ir.DataType.FLOAT, ir.DataType.FLOAT16


class SimulateFp16(ir.passes.InPlacePass):
    """Replace FP16 tensors by float32 ones that hold FP16 numbers.

        y = f16(x)    becomes    y = float(half(f32(x)))

    onnxruntime has very few FP16 kernels for the CPU. It computes a chain of FP16 nodes in float32
    and drops the roundings in between, even with all optimizations off. As explicit Casts, they
    stay. So sums have float32 precision, as in a GPU's tensor cores, and each tensor is rounded
    once. An engine that fuses nodes rounds less often. Ops that only move elements need no
    rounding. Inputs and outputs become float32.

    It must not fire on a graph without FP16.

    Attributes:
        report: report of the latest call; `applied` names the nodes with a rounded output.
    """

    def __init__(self) -> None:
        """Take no options."""
        self.report = PassReport("simulate_fp16")

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Widen constants, then round after each node and graph input."""
        self.report = PassReport("simulate_fp16")
        graph = model.graph
        values = [*graph.inputs, *(value for node in graph for value in node.outputs)]
        halves = [value for value in values if value.dtype == _HALF]
        for value in tuple(graph.initializers.values()):
            _widen(value)
        for value in halves:
            node = value.producer()
            value.type = ir.TensorType(_FLOAT)
            if node is not None and is_op(node, "Cast"):
                node.attributes.add(ir.AttrInt64("to", int(_FLOAT)))
            if node is None or node.op_type not in MOVING:
                self._round(graph, value)
        return ir.passes.PassResult(model, modified=bool(halves))

    def _round(self, graph: ir.Graph, value: ir.Value) -> None:
        """Put two Casts after a value; a graph output keeps its name."""
        down = ir.Node("", "Cast", [None], [ir.AttrInt64("to", int(_HALF))])
        up = ir.Node("", "Cast", [down.outputs[0]], [ir.AttrInt64("to", int(_FLOAT))])
        name = str(value.name)
        for node, suffix, dtype in ((down, "half", _HALF), (up, "rounded", _FLOAT)):
            node.outputs[0].name = f"{name}/{suffix}"
            node.outputs[0].shape, node.outputs[0].type = value.shape, ir.TensorType(dtype)
            node.name = f"{name}/{suffix}/Cast"
        returned, producer = value.is_graph_output(), value.producer()
        ir.convenience.replace_all_uses_with(value, up.outputs[0], replace_graph_outputs=True)
        down.replace_input_with(0, value)
        if producer is None:
            graph.insert_before(graph[0], [down, up])
        else:
            graph.insert_after(producer, [down, up])
            self.report.applied.append(label(producer))
        if returned:
            value.name, up.outputs[0].name = f"{name}/exact", name


def simulated(data: bytes) -> bytes:
    """Return a serialized graph as float32 arithmetic with FP16's rounding.

    onnxruntime runs the result exactly as written.
    """
    model = ir.from_proto(onnx.load_model_from_string(data))
    SimulateFp16()(model)
    rounding: bytes = ir.to_proto(model).SerializeToString()
    return rounding


def _widen(value: ir.Value) -> None:
    array = constant_array(value)
    if array is not None and array.dtype == np.float16:
        value.const_value = ir.tensor(array.astype(np.float32), name=value.name)
        value.type = ir.TensorType(_FLOAT)
