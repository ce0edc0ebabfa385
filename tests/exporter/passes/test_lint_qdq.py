"""Each rule of lint_qdq on a graph broken in that one way."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from exporter.passes import schemes
from exporter.passes.lint_qdq import RULES, lint_qdq
from tests.exporter.passes.graphs import parse
from tests.exporter.passes.qdq_graphs import CONV

TENSORRT, CPU = schemes.lookup("tensorrt"), schemes.lookup("cpu")
PAIR = "{0}_q = QuantizeLinear ({0}, s, z) {0}_d = DequantizeLinear ({0}_q, s, z)"
WEIGHT = "wd = DequantizeLinear <axis = 0> (wq, ws, wz)"
GOOD = f"{PAIR.format('x')} {WEIGHT} c = {CONV} (x_d, wd) y = Relu (c)"
CONSTANTS = {
    "s": np.float32(0.1),
    "s2": np.float32(0.2),
    "z": np.int8(0),
    "u": np.uint8(0),
    "wq": np.ones((4, 4, 3, 3), np.int8),
    "ws": np.full(4, 0.1, np.float32),
    "wz": np.zeros(4, np.int8),
}


def lint(body, scheme=TENSORRT, **changed):
    constants = {n: a for n, a in {**CONSTANTS, **changed}.items() if f"{n}" in body}
    model = parse(body, opset=18, inputs="float[N,4,8,8] x", **constants)
    graph = ir.from_proto(model)
    before = ir.to_proto(graph).SerializeToString()
    findings = lint_qdq(graph, scheme)
    assert ir.to_proto(graph).SerializeToString() == before, "it changes nothing"
    return [(finding.rule, finding.severity, finding.node) for finding in findings]


def test_clean_graph_has_no_findings():
    assert lint(GOOD) == []


@pytest.mark.parametrize("scale", [0, -0.1, np.inf, np.nan])
def test_scale(scale):
    expected = [("scale", "error", "x_q"), ("scale", "error", "x_d")]
    found = lint(GOOD, s=np.float32(scale))
    assert [each for each in found if each[0] == "scale"] == expected


def test_zero_point():
    expected = [("zero-point", "error", "x_q"), ("zero-point", "error", "x_d")]
    assert lint(GOOD, z=np.int8(3)) == expected
    assert lint(GOOD, CPU, z=np.uint8(3)) == []


def test_zero_point_of_a_weight():
    shifted = np.int8([0, 0, 1, 0])
    assert lint(GOOD, wz=shifted) == [("zero-point", "error", "wd")]
    assert ("zero-point", "error", "wd") in lint(GOOD, CPU, wz=shifted, z=np.uint8(0))


def test_scales_by_channel_on_an_activation():
    found = lint(GOOD, s=np.full(4, 0.1, np.float32), z=np.zeros(4, np.int8))
    assert found == [("activation", "error", "x_q"), ("activation", "error", "x_d")]


def test_dtype_of_the_other_scheme():
    found = lint(GOOD, z=np.uint8(0))
    assert found == [("activation", "error", "x_q"), ("activation", "error", "x_d")]


def test_q_without_dq():
    assert lint(f"{GOOD} dangling = QuantizeLinear (c, s, z)") == [("pair", "error", "dangling")]
    shaped = f"{GOOD} q2 = QuantizeLinear (c, s, z) t = Transpose (q2)"
    assert lint(shaped) == [("pair", "error", "q2")]


def test_dq_with_another_scale():
    body = GOOD.replace("DequantizeLinear (x_q, s, z)", "DequantizeLinear (x_q, s2, z)")
    assert lint(body) == [("pair", "error", "x_q")]


@pytest.mark.parametrize("producer", [f"{CONV} (x_d, wd)", "Add (x_d, x)"])
def test_pair_between_a_node_and_its_activation(producer):
    body = f"{PAIR.format('x')} {WEIGHT} c = {producer} {PAIR.format('c')} y = Relu (c_d)"
    assert lint(body) == [("before-activation", "error", "y")]


def residual(first, second):
    return (
        f"{PAIR.format('x')} {WEIGHT} c = {CONV} (x_d, wd) {PAIR.format('c')}"
        f" y = Add ({first}, {second})"
    )


def test_residual():
    body = f"{PAIR.format('x')} {WEIGHT} c = {CONV} (x_d, wd) y = Add (c, x_d)"
    assert lint(body) == []
    assert lint(body.replace("(c, x_d)", "(c, x)")) == [("residual", "warning", "y")]
    assert lint(residual("c_d", "x_d")) == [("residual", "warning", "y")]
    unsigned = np.uint8(0)
    assert lint(residual("c_d", "x_d"), CPU, z=unsigned) == []
    assert lint(body, CPU, z=unsigned) == [("residual", "warning", "y")]


def test_dtypes_at_an_add():
    body = (
        residual("c_d", "x_d")
        .replace("(c, s, z)", "(c, s, u)")
        .replace("(c_q, s, z)", "(c_q, s, u)")
    )
    assert ("residual", "error", "y") in lint(body)


def test_scales_at_a_concat():
    body = (
        f"{PAIR.format('x')} r = Relu (x) r_q = QuantizeLinear (r, s2, z)"
        " r_d = DequantizeLinear (r_q, s2, z) y = Concat <axis = 1> (x_d, r_d)"
    )
    assert lint(body) == [("concat", "warning", "y")], "in float: nothing is refused"
    body = body.replace(" y = ", " k = ") + " q = QuantizeLinear (k, s2, z)"
    body += " y = DequantizeLinear (q, s2, z)"
    assert lint(body) == [("concat", "error", "k")]
    assert lint(body, s2=CONSTANTS["s"]) == []
    assert lint(body.replace("r_d)", "r)")) == [("concat", "error", "k")]
    assert lint(body, CPU, z=np.uint8(0)) == [("concat", "warning", "k")]


def test_scales_around_a_max_pool():
    body = (
        f"{PAIR.format('x')} m = MaxPool <kernel_shape = [2, 2]> (x_d)"
        " q = QuantizeLinear (m, s2, z) y = DequantizeLinear (q, s2, z)"
    )
    assert lint(body) == [("max-pool", "warning", "m")]
    assert lint(body, s2=CONSTANTS["s"]) == []


def test_axis_of_a_weight():
    assert lint(GOOD.replace("axis = 0", "axis = 1")) == [("weight-axis", "error", "c")]
    assert lint(GOOD.replace("axis = 0", "axis = -4")) == []
    body = GOOD.replace(f"{CONV} (x_d, wd)", "ConvTranspose (x_d, wd)")
    assert lint(body) == [("weight-axis", "error", "c")]
    assert lint(body.replace("axis = 0", "axis = 1")) == []


def test_weight_without_input():
    assert lint(GOOD.replace("(x_d, wd)", "(x, wd)")) == [("weight-axis", "warning", "c")]


def test_each_rule_says_what_it_is_about():
    assert all(rule.__doc__ for rule in RULES.values())
