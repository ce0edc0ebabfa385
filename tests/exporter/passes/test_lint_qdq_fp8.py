"""What the lint finds in FP8 graphs, each broken in one way; NVIDIA's builder is asked too.

`tests/exporter/targets/test_fp8_builder.py` shows which of these TensorRT-RTX refuses by itself.
"""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest

from exporter.passes import schemes
from exporter.passes.lint_qdq import lint_qdq
from tests.exporter.passes.graphs import parse

FP8, TENSORRT = schemes.lookup("fp8"), schemes.lookup("tensorrt")
E4M3, E5M2 = ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2
GOOD = (
    "q = QuantizeLinear (x, s, z) d = DequantizeLinear (q, s, z)"
    " wd = DequantizeLinear <axis = 0> (wq, ws, wz)"
    " c = Conv <pads = [1, 1, 1, 1]> (d, wd) y = Relu (c)"
)
CONSTANTS = {
    "s": np.float32(0.1),
    "z": np.zeros((), E4M3),
    "wq": np.ones((16, 16, 3, 3), E4M3),
    "ws": np.full(16, 0.1, np.float32),
    "wz": np.zeros(16, E4M3),
}


def lint(body=GOOD, scheme=FP8, opset=19, **changed):
    graph = ir.from_proto(parse(body, opset=opset, inputs="float[N,16,8,8] x"))
    for name, array in {**CONSTANTS, **changed}.items():
        value = ir.Value(name=name, const_value=ir.tensor(np.asarray(array), name=name))
        value.type, value.shape = ir.TensorType(value.const_value.dtype), value.const_value.shape
        graph.graph.register_initializer(value)
        for node in graph.graph:
            for index, given in enumerate(node.inputs):
                if given is not None and given.name == name:
                    node.replace_input_with(index, value)
    return [(each.rule, each.severity, each.node) for each in lint_qdq(graph, scheme)]


def test_a_clean_graph_has_no_findings():
    assert lint() == []


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"z": np.ones((), E4M3)}, [("zero-point", "q"), ("zero-point", "d")]),
        ({"wz": np.ones(16, E4M3)}, [("zero-point", "wd")]),
        ({"s": np.float64(0.1)}, [("scale", "q"), ("scale", "d")]),
        ({"s": np.float32(0)}, [("scale", "q"), ("scale", "d")]),
        ({"z": np.zeros((), E5M2)}, [("activation", "q"), ("activation", "d")]),
        ({"z": np.int8(0)}, [("activation", "q"), ("activation", "d")]),
        (
            {"wq": np.ones((16, 16, 3, 3), np.int8), "wz": np.zeros(16, np.int8)},
            [("weight-axis", "c")],
        ),
        ({"s": np.full(16, 0.1, np.float32), "z": np.zeros(16, E4M3)}, None),
        ({"ws": np.full(8, 0.1, np.float32), "wz": np.zeros(8, E4M3)}, [("weight-axis", "c")]),
    ],
)
def test_broken_constants(changed, expected):
    expected = [("activation", "q"), ("activation", "d")] if expected is None else expected
    assert lint(**changed) == [(rule, "error", node) for rule, node in expected]


def test_an_opset_that_has_no_e4m3():
    assert lint(opset=18) == [("opset", "error", node) for node in ("q", "d", "wd")]


def test_a_weight_in_fp8_behind_an_input_in_float():
    body = GOOD.replace("(d, wd)", "(x, wd)")
    assert lint(body) == [("weight-axis", "warning", "c")]


def test_one_scheme_is_not_the_other():
    assert {rule for rule, severity, _ in lint(scheme=TENSORRT) if severity == "error"} == {
        "activation",
        "weight-axis",
    }


def test_input_and_weight_of_different_float_types():
    """As after typing FP16: a Conv takes one type."""
    graph = ir.from_proto(parse(GOOD, opset=19, inputs="float[N,16,8,8] x"))
    (conv,) = [node for node in graph.graph if node.op_type == "Conv"]
    conv.inputs[0].type = ir.TensorType(ir.DataType.FLOAT16)
    conv.inputs[1].type = ir.TensorType(ir.DataType.FLOAT)
    messages = [each.message for each in lint_qdq(graph, FP8) if each.node == "c"]
    assert "its input is FLOAT16 and its weight FLOAT" in messages


def test_a_pooling_layer_works_in_float_and_that_is_meant():
    body = (
        "q = QuantizeLinear (x, s, z) d = DequantizeLinear (q, s, z)"
        " y = MaxPool <kernel_shape = [2, 2]> (d)"
    )
    assert lint(body) == []
