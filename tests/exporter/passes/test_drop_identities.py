"""DropIdentities: fewer nodes, the same numbers under the same names."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx.reference import ReferenceEvaluator

from exporter.passes.drop_identities import DropIdentities
from tests.exporter.passes.graphs import ops, parse, uniform

X = uniform(2, 3, 4, 5)


def drop(body, outputs):
    model = parse(body, outputs=", ".join(f"float[N,3,4,5] {name}" for name in outputs))
    graph = ir.from_proto(model)
    dropping = DropIdentities()
    assert dropping(graph).modified == bool(dropping.report.applied)
    after = ir.to_proto(graph)
    onnx.checker.check_model(after, full_check=True)
    assert [o.name for o in after.graph.output] == outputs
    expected = ReferenceEvaluator(model).run(None, {"x": X})
    got = ReferenceEvaluator(after).run(None, {"x": X})
    for one, other in zip(expected, got, strict=True):
        np.testing.assert_array_equal(other, one)
    assert not DropIdentities()(graph).modified, "a second call finds nothing to do"
    return ops(after)


@pytest.mark.parametrize(
    ("body", "outputs", "left"),
    [
        ("i = Identity (x) y = Relu (i)", ["y"], ["Relu"]),
        ("r = Relu (x) y = Identity (r)", ["y"], ["Relu"]),
        ("r = Relu (x) i = Identity (r) j = Identity (i) y = Abs (j)", ["y"], ["Relu", "Abs"]),
        ("y = Identity (x)", ["y"], ["Identity"]),
        ("r = Relu (x) y = Identity (r) z = Identity (r)", ["y", "z"], ["Relu", "Identity"]),
        ("r = Relu (x) z = Abs (r) y = Identity (r)", ["r", "y", "z"], ["Relu", "Abs", "Identity"]),
        ("y = Identity (x) z = Relu (y)", ["y", "z"], ["Identity", "Relu"]),
    ],
)
def test_what_goes_and_what_stays(body, outputs, left):
    assert sorted(drop(body, outputs)) == sorted(left)
