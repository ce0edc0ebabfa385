"""MeanToPool against onnx's reference evaluator."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx.reference import ReferenceEvaluator

from exporter.passes import Kept
from exporter.passes.mean_to_pool import MeanToPool
from tests.exporter.passes.graphs import parse, uniform

X = uniform(2, 3, 4, 5)


def rewrite(model, x=X):
    graph = ir.from_proto(model)
    rewriting = MeanToPool()
    assert rewriting(graph).modified == bool(rewriting.report.applied)
    after = ir.to_proto(graph)
    onnx.checker.check_model(after, full_check=True)
    (expected,) = ReferenceEvaluator(model).run(None, {"x": x})
    (got,) = ReferenceEvaluator(after).run(None, {"x": x})
    # Means of 20 numbers of at most 2, summed in another order.
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-5, strict=True)
    assert not MeanToPool()(graph).modified, "a second call finds nothing to do"
    return rewriting.report, [node.op_type for node in after.graph.node]


@pytest.mark.parametrize("axes", [[2, 3], [3, 2], [-1, -2]])
def test_mean_over_height_and_width(axes):
    model = parse("r = Relu (x) y = ReduceMean (r, axes)", opset=18, axes=np.array(axes))
    report, ops = rewrite(model)
    assert report.applied == ["y"]
    assert ops == ["Relu", "GlobalAveragePool"]


@pytest.mark.parametrize("following", ["y = Relu (m)", "y = Identity (m)"])
def test_without_keepdims_a_flatten_follows(following):
    body = f"m = ReduceMean <keepdims = 0> (x, axes) {following}"
    model = parse(body, outputs="float[a,b] y", opset=18, axes=np.array([2, 3]))
    report, ops = rewrite(model)
    assert report.applied == ["m"]
    assert ops[:2] == ["GlobalAveragePool", "Flatten"]


def test_axes_as_attribute_and_mean_as_output():
    model = parse("y = ReduceMean <axes = [2, 3], keepdims = 0> (x)", outputs="float[a,b] y")
    assert rewrite(model)[1] == ["GlobalAveragePool", "Flatten"]


@pytest.mark.parametrize("axes", [[1, 2], [2], [1, 2, 3]])
def test_other_axes_stay(axes):
    report, _ = rewrite(parse("y = ReduceMean (x, axes)", opset=18, axes=np.array(axes)))
    assert report.kept == [Kept("y", f"axes {axes} aren't height and width")]


def test_other_ranks_stay():
    model = parse(
        "y = ReduceMean (x, axes)",
        opset=18,
        inputs="float[2,3,4,5,6] x",
        outputs="float[a,b,c,d,e] y",
        axes=np.array([2, 3]),
    )
    report, _ = rewrite(model, uniform(2, 3, 4, 5, 6))
    assert report.kept == [Kept("y", "input has rank 5")]


def test_a_mean_of_whole_numbers_stays():
    """ONNX's GlobalAveragePool takes floats only."""
    model = parse(
        "i = Cast <to = 6> (x) m = ReduceMean (i, axes) y = Cast <to = 1> (m)",
        opset=18,
        axes=np.array([2, 3]),
    )
    report, ops = rewrite(model)
    assert ops == ["Cast", "ReduceMean", "Cast"]
    assert report.kept == [Kept("m", "no pooling takes INT32")]
