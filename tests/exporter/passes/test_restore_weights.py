"""RestoreWeights undoes what RoundWeights and AddBias do, and nothing else."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from exporter.passes.add_bias import AddBias
from exporter.passes.restore_weights import RestoreWeights
from tests.exporter.passes.graphs import parse, uniform

BODY = """
    c = Conv (x, w) f = Flatten (c) g = Gemm <beta=0.5> (f, v, b) y = Gemm (g, u, b)
"""
CONSTANTS = {"w": uniform(2, 1, 3, 3), "v": uniform(8, 3), "u": uniform(3, 3), "b": uniform(3)}


def graph() -> ir.Model:
    return ir.from_proto(
        parse(BODY, inputs="float[N,1,4,4] x", outputs="float[a,b] y", **CONSTANTS)
    )


@pytest.mark.parametrize("names", [["c"], ["g"], ["c", "g", "y"], []])
def test_named_nodes_are_as_they_were_and_others_as_they_are(names: list[str]) -> None:
    before, model = graph(), graph()
    AddBias({"c": np.ones(2), "g": np.ones(3), "y": np.ones(3)})(model)
    changed = {node.outputs[0].name: constants(node) for node in model.graph}
    restoring = RestoreWeights(before, names)
    assert restoring(model).modified == bool(names)
    assert restoring.report.applied == names
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    for old, now in zip(before.graph, model.graph, strict=True):
        name = str(now.outputs[0].name)
        expected = constants(old) if name in names else changed[name]
        assert constants(now) == expected, name
    assert not RestoreWeights(before, names)(model).modified, "nothing is left to restore"
    assert set(model.graph.initializers) == {
        str(value.name) for node in model.graph for value in node.inputs if value.is_initializer()
    }


def constants(node: ir.Node) -> tuple[object, ...]:
    """What decides what a node computes."""
    arrays = [v.const_value.numpy().tolist() for v in node.inputs if v.is_initializer()]
    return (*arrays, node.attributes.get_float("beta", 1.0))
