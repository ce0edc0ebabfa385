"""AddBias: the output moves by what was added, and nothing else changes."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from exporter.passes import Kept
from exporter.passes.add_bias import AddBias
from tests.exporter.passes.qdq_graphs import CONV, constant, net, run

FOUR, SIX = np.array([1.0, -2.0, 0.5, 0.0]), np.arange(6.0)


def add(model, additions):
    graph = ir.from_proto(model)
    adding = AddBias(additions)
    adding(graph)
    after = ir.to_proto(graph)
    onnx.checker.check_model(after, full_check=True)
    return adding.report, after


@pytest.mark.parametrize("inputs", ["x, w1", "x, w1, b"])
def test_convolution(inputs):
    model = net(f"y = {CONV} ({inputs})")
    report, after = add(model, {"y": FOUR})
    assert report.applied == ["y"]
    expected = run(model)["y"] + FOUR[None, :, None, None]
    np.testing.assert_allclose(run(after)["y"], expected, atol=1e-5)


@pytest.mark.parametrize("gemm", ["Gemm (f, dense)", "Gemm <beta = 0.25> (f, dense, db)"])
def test_dense(gemm):
    model = net(f"m = GlobalMaxPool (x) f = Flatten (m) y = {gemm}", outputs="float[a,b] y")
    report, after = add(model, {"y": SIX})
    assert report.applied == ["y"]
    np.testing.assert_allclose(run(after)["y"], run(model)["y"] + SIX, atol=1e-5)


def test_a_shared_bias_stays_the_others():
    model = net(f"c = {CONV} (x, w1, b) y = {CONV} (c, w2, b)")
    _, after = add(model, {"y": FOUR})
    np.testing.assert_array_equal(constant(after, "b"), constant(model, "b"))
    expected = run(model)["y"] + FOUR[None, :, None, None]
    np.testing.assert_allclose(run(after)["y"], expected, atol=1e-5)


def test_matmul_is_left_alone():
    model = net("m = GlobalMaxPool (x) f = Flatten (m) y = MatMul (f, dense)", "float[a,b] y")
    report, after = add(model, {"y": SIX})
    assert report.kept == [Kept("y", "a MatMul has no bias")]
    assert after == ir.to_proto(ir.from_proto(model))
