"""DenseToGemm against onnx's reference evaluator."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx.reference import ReferenceEvaluator

from exporter.passes import Kept
from exporter.passes.dense_to_gemm import DenseToGemm
from tests.exporter.passes.graphs import parse, uniform

W, B = uniform(6, 3), uniform(3)


def join(body, *, inputs="float[N,6] x", outputs="float[a,b] y", x=None, **arrays):
    x = uniform(4, 6) if x is None else x
    arrays = {"w": W, "b": B, **arrays}
    model = parse(body, inputs=inputs, outputs=outputs, opset=18, **arrays)
    graph = ir.from_proto(model)
    joining = DenseToGemm()
    assert joining(graph).modified == bool(joining.report.applied)
    after = ir.to_proto(graph)
    onnx.checker.check_model(after, full_check=True)
    (expected,) = ReferenceEvaluator(model).run(None, {"x": x})
    (got,) = ReferenceEvaluator(after).run(None, {"x": x})
    # Sums of 6 products of at most 4, in another order.
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-5, strict=True)
    assert not DenseToGemm()(graph).modified, "a second call finds nothing to do"
    return joining.report, [(node.op_type, len(node.input)) for node in after.graph.node]


@pytest.mark.parametrize("add", ["Add (h, b)", "Add (b, h)"])
@pytest.mark.parametrize("shape", [(3,), (1, 3)])
def test_matmul_and_add_become_one_gemm(add, shape):
    report, ops = join(f"h = MatMul (x, w) y = {add}", b=B.reshape(shape))
    assert report.applied == ["h"]
    assert ops == [("Gemm", 3)]


def test_a_bias_that_is_computed_behind_the_matmul_is_in_order_after():
    body = "h = MatMul (x, w) c = Constant <value = float[3] {1, 2, 3}> () y = Add (h, c)"
    report, ops = join(body)
    assert report.applied == ["h"]
    assert ops == [("Gemm", 3)]


def test_matmul_alone():
    assert join("y = MatMul (x, w)")[1] == [("Gemm", 2)]


@pytest.mark.parametrize(
    "rest",
    ["s = Add (h, b) y = Add (s, h)", "y = Add (h, column)", "r = Relu (h) y = Add (r, b)"],
)
def test_add_that_is_no_bias_stays(rest):
    _, ops = join(f"h = MatMul (x, w) {rest}", column=uniform(4, 1))
    assert ops[0] == ("Gemm", 2)
    assert ("Add", 2) in ops


def test_batch_of_matrices_stays():
    body, x = "y = MatMul (x, w)", uniform(2, 4, 6)
    report, ops = join(body, inputs="float[N,4,6] x", outputs="float[a,b,c] y", x=x)
    assert report.kept == [Kept("y", "input has rank 3")]
    assert ops == [("MatMul", 2)]


def test_constant_on_the_left_stays():
    report, ops = join("y = MatMul (w, x)", inputs="float[3,3] x", x=uniform(3, 3))
    assert report.applied == []
    assert ops == [("MatMul", 2)]
