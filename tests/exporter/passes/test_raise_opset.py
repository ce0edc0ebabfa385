"""From opset 18 to 19 nothing but the number changes, and onnx's schemas say that nothing must."""

from __future__ import annotations

import onnx
import onnx_ir as ir
import pytest

from exporter.errors import WrongUse
from exporter.passes import LAYER_KEY
from exporter.passes.raise_opset import HALF_OPSET, OLDEST, RaiseOpset
from tests.exporter.passes.graphs import parse

CHANGED = sorted(
    schema.name
    for schema in onnx.defs.get_all_schemas_with_history()
    if schema.domain == ""
    and schema.since_version == HALF_OPSET
    and onnx.defs.has(schema.name, OLDEST)
)


def test_ops_did_change():
    assert {"Cast", "DequantizeLinear", "QuantizeLinear", "Resize"} <= set(CHANGED)


@pytest.mark.parametrize("op", CHANGED)
def test_what_changed_only_adds(op):
    old, new = (onnx.defs.get_schema(op, version, "") for version in (OLDEST, HALF_OPSET))
    assert [p.name for p in new.inputs][: len(old.inputs)] == [p.name for p in old.inputs]
    assert all(
        str(p.option).endswith(("Optional", "Variadic")) for p in new.inputs[len(old.inputs) :]
    )
    assert set(old.attributes) <= set(new.attributes)
    for name, attribute in old.attributes.items():
        assert attribute.default_value == new.attributes[name].default_value
    assert not any(new.attributes[name].required for name in set(new.attributes) - set(old.attributes))  # fmt: skip # noqa: E501


def test_names_and_metadata_stay():
    graph = ir.from_proto(parse("a = Relu (x) y = Add (a, x)", opset=18))
    before = [(node.name, node.outputs[0].name) for node in graph.graph]
    for node in graph.graph:
        node.metadata_props[LAYER_KEY] = "layer"
    assert RaiseOpset()(graph).modified
    assert graph.opset_imports[""] == HALF_OPSET
    assert [(node.name, node.outputs[0].name) for node in graph.graph] == before
    assert all(node.metadata_props == {LAYER_KEY: "layer"} for node in graph.graph)
    onnx.checker.check_model(ir.to_proto(graph), full_check=True)
    assert not RaiseOpset()(graph).modified


def test_older_ones_are_refused():
    with pytest.raises(WrongUse, match="opset 17"):
        RaiseOpset()(ir.from_proto(parse("y = Relu (x)", opset=17)))
