"""Graphs that TensorRT must not get: refused by our lint, by name and layer, and by its parser.

What NVIDIA's parser takes in spite of it is recorded here too: there the lint is all there is.
"""

from __future__ import annotations

import importlib.util

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import numpy_helper

from exporter.passes import LAYER_KEY, schemes
from exporter.passes.lint_qdq import keras_layer, lint_qdq
from exporter.passes.lint_types import RULES, lint_types
from tests.exporter.passes.half_graphs import parse_errors, typed
from tests.exporter.passes.qdq_graphs import CONV, net, quantize

TENSORRT = schemes.lookup("tensorrt")
needs_parser = pytest.mark.skipif(
    importlib.util.find_spec("tensorrt_rtx") is None,
    reason="NVIDIA's parser is not installed: pip install 'exporter[rtx]'",
)


def good(int8=True):
    """A residual block, INT8 with FP16 around it, each node with its layer."""
    body = f"""c = {CONV} (x, w1, b) r = Relu (c) e = {CONV} (r, w2, bb) s = Add (e, r)
        u = Relu (s) y = {CONV} (u, w3, b)"""
    graph = ir.from_proto(net(body, outputs="float[N,4,8,8] y"))
    for node in graph.graph:
        node.name = f"node_{node.outputs[0].name}"
        node.metadata_props[LAYER_KEY] = f"layer_{node.outputs[0].name}"
    model = ir.to_proto(graph)
    return typed(quantize(model, TENSORRT)[1] if int8 else model)[1]


def lint(model):
    graph = ir.from_proto(model)
    return lint_types(graph) + lint_qdq(graph, TENSORRT)


def producer(model, output):
    return next(node for node in model.graph.node if output in node.output)


def replace(model, name, array):
    for each in model.graph.initializer:
        if each.name == name:
            each.CopyFrom(numpy_helper.from_array(array, name))
    declared = [value for value in model.graph.value_info if value.name != name]
    del model.graph.value_info[:]
    model.graph.value_info.extend(declared)


def non_zero_zero_point(model):
    replace(model, "r_zero_point", np.int8(3))


def mixed_types_at_an_add(model):
    """The shortcut's own DQ gives FP32 where the convolution gives FP16."""
    wide = onnx.helper.make_tensor("wide", onnx.TensorProto.FLOAT, [], [0.01])
    model.graph.initializer.append(wide)
    inputs = ["r_quantized", "wide", "r_zero_point"]
    twin = onnx.helper.make_node("DequantizeLinear", inputs, ["r_wide"], name="twin")
    add = producer(model, "s")
    add.input[list(add.input).index("r_dequantized")] = "r_wide"
    model.graph.node.insert(list(model.graph.node).index(add), twin)
    float_type = onnx.helper.make_tensor_value_info("r_wide", onnx.TensorProto.FLOAT, None)
    model.graph.value_info.append(float_type)


def mixed_types_at_a_bias(model):
    replace(model, "b", np.zeros(4, np.float32))


def activation_scale_by_channel(model):
    replace(model, "r_scale", np.full(4, 0.01, np.float16))
    replace(model, "r_zero_point", np.zeros(4, np.int8))


def unsigned_activation(model):
    replace(model, "r_zero_point", np.uint8(0))
    for value in model.graph.value_info:
        if value.name == "r_quantized":
            value.type.tensor_type.elem_type = onnx.TensorProto.UINT8


def shortcut_without_a_pair(model):
    """The Add reads the ReLU itself."""
    add = producer(model, "s")
    index = list(add.input).index("r_dequantized")
    add.input[index] = "r"


def test_the_good_graph_is_clean():
    assert lint(good()) == []
    assert lint_types(ir.from_proto(good(int8=False))) == []


@needs_parser
@pytest.mark.parametrize("int8", [True, False])
def test_the_parser_takes_the_good_graph(int8):
    assert parse_errors(good(int8).SerializeToString()) == []


# The rule that finds it, the node and layer named; and whether NVIDIA's parser refuses it.
BROKEN = [
    (non_zero_zero_point, "zero-point", "r_quantized/QuantizeLinear", "layer_r", True),
    (mixed_types_at_an_add, "mixed-types", "node_s", "layer_s", True),
    (mixed_types_at_a_bias, "mixed-types", "node_c", "layer_c", True),
    # These two the parser and the builder of TensorRT-RTX 1.7.1 take: the lint is all there is.
    (activation_scale_by_channel, "activation", "r_quantized/QuantizeLinear", "layer_r", False),
    (unsigned_activation, "activation", "r_quantized/QuantizeLinear", "layer_r", False),
]
IDS = [case[0].__name__ for case in BROKEN]


@pytest.mark.parametrize(("breaking", "rule", "node", "layer", "refused"), BROKEN, ids=IDS)
def test_the_lint_refuses(breaking, rule, node, layer, refused):
    model = good()
    breaking(model)
    found = [each for each in lint(model) if each.severity == "error"]
    named = {(each.rule, each.node, each.layer): str(each) for each in found}
    assert (rule, node, layer) in named
    assert f"Keras layer {layer!r}" in named[rule, node, layer]


@needs_parser
@pytest.mark.parametrize(("breaking", "rule", "node", "layer", "refused"), BROKEN, ids=IDS)
def test_what_the_parser_does_without_the_lint(breaking, rule, node, layer, refused):
    model = good()
    breaking(model)
    errors = parse_errors(model.SerializeToString())
    assert bool(errors) == refused, errors


def test_shortcut_without_a_pair_is_a_warning():
    model = good()
    shortcut_without_a_pair(model)
    (found,) = lint(model)
    assert (found.rule, found.severity, found.node, found.layer) == (
        "residual", "warning", "node_s", "layer_s",
    )  # fmt: skip
    assert "its shortcut has no Q/DQ pair" in found.message


@needs_parser
def test_the_parser_takes_a_shortcut_without_a_pair():
    model = good()
    shortcut_without_a_pair(model)
    assert parse_errors(model.SerializeToString()) == [], "it costs a fusion, no more"


def test_a_cast_that_undoes_another():
    model = net(f"c = {CONV} (x, w1) h = Cast <to = 10> (c) y = Cast <to = 1> (h)")
    found = lint_types(ir.from_proto(model))
    assert [(each.rule, each.severity, each.node) for each in found] == [("cast-back", "warning", "y")]  # fmt: skip # noqa: E501


def test_a_type_that_the_op_can_not_have():
    model = net("y = Relu (x)")
    graph = ir.from_proto(model)
    node = graph.graph[0]
    for value in (*node.inputs, *node.outputs):
        value.type = ir.TensorType(ir.DataType.BOOL)
    found = lint_types(graph)
    assert {(each.rule, each.node) for each in found} == {("allowed-type", "y")}


def test_ops_and_types_that_are_unknown():
    graph = ir.from_proto(net("y = Relu (x)"))
    graph.graph[0].outputs[0].type = None
    (found,) = lint_types(graph)
    assert "doesn't give the type of" in found.message
    graph.graph[0].op_type = "Nonsense"
    assert [each.rule for each in lint_types(graph)] == ["known-op"]


def test_layer_of_a_node_that_a_pass_added():
    model = ir.from_proto(good())
    by_output = {node.outputs[0].name: node for node in model.graph}
    assert keras_layer(by_output["r_quantized"]) == "layer_r", "the one before"
    assert keras_layer(by_output["w1_dequantized"]) == "layer_c", "a weight's: the one behind"


def test_each_rule_says_what_it_is_about():
    assert all(rule.__doc__ for rule in RULES.values())
