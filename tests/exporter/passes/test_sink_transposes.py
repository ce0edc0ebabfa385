"""SinkTransposes against onnx's reference evaluator: moving data must not change it at all."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx.reference import ReferenceEvaluator

from exporter.passes.sink_transposes import SinkTransposes
from tests.exporter.passes.graphs import (
    NCHW,
    NHWC,
    X_SHAPE,
    between,
    ops,
    parse,
    sink,
    uniform,
)

UNARY = (
    "Relu(t)",
    "LeakyRelu <alpha = 0.3> (t)",
    "Clip(t, low, high)",
    "Clip(t, , high)",
    "Sigmoid(t)",
    "Tanh(t)",
    "Elu(t)",
    "Selu(t)",
    "HardSigmoid(t)",
    "HardSwish(t)",
    "Softplus(t)",
    "Erf(t)",
    "Exp(t)",
    "Log(t)",
    "Sqrt(t)",
    "Abs(t)",
    "Neg(t)",
    "Identity(t)",
    "Dropout(t)",
)


@pytest.mark.parametrize("expression", UNARY)
def test_unary(expression):
    limits = {"low": np.float32(0.6), "high": np.float32(1.1)}
    used = {name: array for name, array in limits.items() if name in expression}
    sinking, after = sink(between(expression, **used))
    assert sinking.report.applied == ["n"]
    assert sinking.report.kept == []
    assert ops(after) == [expression.split("(")[0].split()[0]]


def test_gelu():
    sinking, after = sink(between("Gelu(t)", opset=20))
    assert sinking.report.applied == ["n"]
    assert ops(after) == ["Gelu"]


def test_cast_changes_the_type_of_the_moved_value_only():
    body = f"t = {NHWC} (x)\n [n] r = Cast <to = 7> (t)\n y = {NCHW} (r)"
    _, after = sink(parse(body, outputs="int64[a,b,c,d] y"))
    assert ops(after) == ["Cast"]


@pytest.mark.parametrize("shape", [(), (1,), (3,), (5, 3), (4, 1, 3), (4, 5, 1), (1, 4, 5, 3)])
@pytest.mark.parametrize("op", ["Add", "Sub", "Mul", "Div", "Min", "Max", "Pow", "Where"])
@pytest.mark.parametrize("swap", [True, False])
def test_binary_with_a_constant(op, shape, swap):
    operands = "c, t" if swap else "t, c"
    arrays = {"c": uniform(*shape, seed=3)}
    if op == "Where":
        operands = f"condition, {operands}"
        arrays["condition"] = uniform(5, 3) > 1
    sinking, after = sink(between(f"{op}({operands})", **arrays))
    assert sinking.report.applied == ["n"]
    assert ops(after) == [op]


@pytest.mark.parametrize("shape", [(3,), (1, 1, 3), (4, 5, 3)])
def test_prelu(shape):
    model = between("PRelu(t, slope)", slope=uniform(*shape))
    sinking, after = sink(model, x=uniform(*X_SHAPE) - 1)
    assert sinking.report.applied == ["n"]
    assert ops(after) == ["PRelu"]


def test_a_constant_that_others_use_is_not_changed():
    body = f"""t = {NHWC} (x)
        r = Add(t, c)
        s = {NCHW} (r)
        y = Add(s, c)"""
    model = parse(body, inputs="float[N,3,3,3] x", c=uniform(3))
    _, after = sink(model, x=uniform(2, 3, 3, 3))
    assert ops(after) == ["Add", "Add"]
    assert len(after.graph.initializer) == 2


def test_binary_of_two_transposed():
    body = f"""a = Relu(x)
        t = {NHWC} (x)
        u = {NHWC} (a)
        [n] r = Add(t, u)
        y = {NCHW} (r)"""
    sinking, after = sink(parse(body))
    assert sinking.report.applied == ["n"]
    assert ops(after) == ["Relu", "Add"]


def test_binary_with_itself():
    _, after = sink(between("Mul(t, t)"))
    assert ops(after) == ["Mul"]


@pytest.mark.parametrize("axis", [0, 1, 2, 3, -1])
def test_concat(axis):
    body = f"""a = Relu(x)
        t = {NHWC} (x)
        u = {NHWC} (a)
        [n] r = Concat <axis = {axis}> (t, u)
        y = {NCHW} (r)"""
    sinking, after = sink(parse(body))
    assert sinking.report.applied == ["n"]
    assert ops(after) == ["Relu", "Concat"]


def test_concat_with_a_constant():
    model = between("Concat <axis = 3> (t, c)", c=uniform(2, 4, 5, 2))
    _, after = sink(model)
    assert ops(after) == ["Concat"]


@pytest.mark.parametrize("op", ["ReduceMean", "ReduceMax", "ReduceSum"])
@pytest.mark.parametrize("axes", [[1, 2], [3], [-1], [2, 1], [0, 1, 2, 3]])
@pytest.mark.parametrize("opset", [17, 18])
def test_reduce_with_keepdims(op, axes, opset):
    as_input = op == "ReduceSum" or opset == 18
    arrays = {"axes": np.array(axes)} if as_input else {}
    expression = f"{op}(t, axes)" if as_input else f"{op} <axes = {axes}> (t)"
    sinking, after = sink(between(expression, opset=opset, **arrays))
    assert sinking.report.applied == ["n"]
    assert ops(after) == [op]


@pytest.mark.parametrize("opset", [17, 18])
def test_mean_over_space_needs_no_transpose(opset):
    expression = "ReduceMean <keepdims = 0, axes = [1, 2]> (t)"
    arrays = {}
    if opset == 18:
        expression, arrays = "ReduceMean <keepdims = 0> (t, axes)", {"axes": np.array([1, 2])}
    body = f"t = {NHWC} (x)\n [n] y = {expression}"
    sinking, after = sink(parse(body, outputs="float[a,b] y", opset=opset, **arrays))
    assert sinking.report.applied == ["n"]
    assert ops(after) == ["ReduceMean"]


def test_reduction_of_all_axes():
    body = f"t = {NHWC} (x)\n [n] y = ReduceMean <keepdims = 0> (t)"
    _, after = sink(parse(body, outputs="float y"))
    assert ops(after) == ["ReduceMean"]


@pytest.mark.parametrize("opset", [10, 17])
def test_pad(opset):
    pads = [0, 1, 2, 3, 4, 5, 6, 7]
    expression = f"Pad <pads = {pads}, value = 1.5> (t)"
    arrays = {}
    if opset == 17:
        expression = "Pad(t, pads, value)"
        arrays = {"pads": np.array(pads), "value": np.float32(1.5)}
    graph = ir.from_proto(between(expression, opset=opset, **arrays))
    sinking = SinkTransposes()
    sinking(graph)
    assert sinking.report.applied == ["n"]
    after = ir.to_proto(graph)
    assert ops(after) == ["Pad"]
    x = uniform(*X_SHAPE)
    # NHWC pads: N 0 and 4, H 1 and 5, W 2 and 6, C 3 and 7.
    expected = np.pad(x, [(0, 4), (3, 7), (1, 5), (2, 6)], constant_values=1.5)
    if opset == 17:  # the reference has no Pad with attributes
        np.testing.assert_array_equal(ReferenceEvaluator(after).run(None, {"x": x})[0], expected)
    else:
        moved = next(a.ints for a in after.graph.node[0].attribute if a.name == "pads")
        assert list(moved) == [0, 3, 1, 2, 4, 7, 5, 6]


@pytest.mark.parametrize("given", ["scales", "sizes"])
@pytest.mark.parametrize("mode", ["nearest", "linear"])
def test_resize(mode, given):
    """NHWC (1, 2, 3, 1) is NCHW (1, 1, 2, 3): rows and columns must not be mixed up."""
    options = f'<mode = "{mode}", coordinate_transformation_mode = "asymmetric">'
    by = np.array([1, 2, 3, 1], np.float32)
    arrays = {"scales": by} if given == "scales" else {"sizes": np.array([2, 8, 15, 3])}
    inputs = "t, , scales" if given == "scales" else "t, , , sizes"
    sinking, after = sink(between(f"Resize {options} ({inputs})", **arrays))
    assert sinking.report.applied == ["n"]
    assert ops(after) == ["Resize"]


@pytest.mark.parametrize("op", ["Softmax", "LogSoftmax"])
@pytest.mark.parametrize("axis", ["", "<axis = 1>", "<axis = 3>", "<axis = -2>"])
def test_softmax(op, axis):
    sinking, after = sink(between(f"{op} {axis} (t)"))
    assert sinking.report.applied == ["n"]
    assert ops(after) == [op]


def test_squeeze():
    body = f"t = {NHWC} (x)\n [n] y = Squeeze(t, axes)"
    arrays = {"axes": np.array([1, 2]), "inputs": "float[N,3,1,1] x"}
    _, after = sink(parse(body, outputs="float[a,b] y", **arrays), x=uniform(2, 3, 1, 1))
    assert ops(after) == ["Squeeze"]


def test_batch_normalization_where_channels_stay():
    names = "gamma, beta, mean, var"
    arrays = {name: uniform(3, seed=i) for i, name in enumerate(names.split(", "))}
    swap = "Transpose <perm = [0, 1, 3, 2]>"
    body = f"t = {swap} (x)\n [n] r = BatchNormalization(t, {names})\n y = {swap} (r)"
    _, after = sink(parse(body, **arrays))
    assert ops(after) == ["BatchNormalization"]


@pytest.mark.parametrize("expression", ["Reshape(t, shape)", "Flatten <axis = 1> (t)"])
def test_reshape_of_a_pooled_image(expression):
    body = f"t = {NHWC} (x)\n [n] y = {expression}"
    arrays = {"shape": np.array([0, 3])} if "shape" in expression else {}
    model = parse(body, outputs="float[a,b] y", inputs="float[N,3,1,1] x", **arrays)
    _, after = sink(model, x=uniform(2, 3, 1, 1))
    assert "Transpose" not in ops(after)


def test_transposes_compose():
    body = "a = Transpose <perm = [0, 2, 3, 1]> (x)\n y = Transpose <perm = [1, 0, 2, 3]> (a)"
    _, after = sink(parse(body))
    assert ops(after) == ["Transpose"]
    assert list(after.graph.node[0].attribute[0].ints) == [2, 0, 3, 1]


def test_default_perm_reverses():
    body = "a = Transpose(x)\n b = Relu(a)\n y = Transpose(b)"
    _, after = sink(parse(body))
    assert ops(after) == ["Relu"]


def test_identity_of_a_graph_input_and_output_stays_one_node():
    _, after = sink(parse(f"a = {NHWC} (x)\n y = {NCHW} (a)"))
    assert ops(after) == ["Identity"]


def test_inverse_pair_on_a_graph_input_vanishes():
    _, after = sink(parse(f"a = {NHWC} (x)\n b = {NCHW} (a)\n y = Relu(b)"))
    assert ops(after) == ["Relu"]


def test_identity_perm_vanishes():
    body = "a = Relu(x)\n b = Transpose <perm = [0, 1, 2, 3]> (a)\n y = Relu(b)"
    _, after = sink(parse(body))
    assert ops(after) == ["Relu", "Relu"]


def test_transpose_stays_before_a_graph_output():
    sinking, after = sink(parse(f"t = {NHWC} (x)\n [n] y = Relu(t)"))
    assert sinking.report.applied == ["n"]
    assert ops(after) == ["Relu", "Transpose"]


def test_transposed_value_that_is_a_graph_output_too():
    body = f"t = {NHWC} (x)\n r = Relu(t)\n y = {NCHW} (r)"
    _, after = sink(parse(body, outputs="float[a,b,c,d] y, float[e,f,g,h] t"))
    assert sorted(ops(after)) == ["Relu", "Transpose"]


def test_shapes_follow():
    graph = ir.from_proto(parse(f"t = {NHWC} (x)\n r = Relu(t)\n y = Relu(r)"))
    SinkTransposes()(graph)
    shapes = [tuple(node.outputs[0].shape)[1:] for node in graph.graph]
    assert shapes[:2] == [(3, 4, 5), (3, 4, 5)]
    types = [node.outputs[0].type for node in graph.graph]
    assert len({id(each) for each in types}) == len(types), "setting one dtype leaves the others"


def test_unknown_shapes():
    body = f"t = {NHWC} (x)\n r = Add(t, c)\n y = {NCHW} (r)"
    model = parse(body, c=uniform(3))
    del model.graph.value_info[:]
    _, after = sink(model)
    assert ops(after) == ["Add"]


def conv(name, source, *, weight, to_nhwc=True):
    """A Conv as tf2onnx writes it: NHWC outside, NCHW inside."""
    return f"""{name}_in = {NCHW} ({source})
        {name}_conv = Conv <pads = [1, 1, 1, 1]> ({name}_in, {weight})
        {name} = {NHWC} ({name}_conv)
    """


def test_residual_network_keeps_the_transpose_of_its_input():
    body = (
        conv("stem", "x", weight="w0")
        + "stem_relu = Relu(stem)\n"
        + conv("a", "stem_relu", weight="w1")
        + "a_scaled = Mul(a, scale)\n a_relu = Relu(a_scaled)\n"
        + conv("b", "a_relu", weight="w2")
        + "sum = Add(b, stem_relu)\n sum_relu = Relu(sum)\n"
        + conv("c", "sum_relu", weight="w1")
        + conv("d", "sum_relu", weight="w2")
        + "sum2 = Add(c, d)\n y = ReduceMean <axes = [1, 2], keepdims = 0> (sum2)"
    )
    arrays = {"w0": uniform(4, 3, 3, 3) - 1}
    arrays |= {f"w{i}": uniform(4, 4, 3, 3, seed=i) - 1 for i in (1, 2)}
    arrays["scale"] = uniform(4)
    model = parse(body, inputs="float[N,6,6,3] x", outputs="float[a,b] y", **arrays)
    sinking, after = sink(model, x=uniform(2, 6, 6, 3))
    assert ops(after).count("Transpose") == 1
    assert ops(after)[0] == "Transpose"
    assert len(sinking.report.applied) == 7
    assert sinking.report.kept == []


STEPS = st.sampled_from(
    [
        "Relu({0})",
        "Add({0}, c)",
        "Mul(row, {0})",
        "Add({0}, {0})",
        "ReduceMax <axes = [1]> ({0})",
        "Transpose <perm = [0, 2, 3, 1]> ({0})",
        "Transpose <perm = [0, 3, 1, 2]> ({0})",
        "Transpose <perm = [3, 1, 0, 2]> ({0})",
        "Softmax <axis = -3> ({0})",
    ]
)


@settings(deadline=None, max_examples=60)
@given(steps=st.lists(STEPS, max_size=9), axis=st.integers(-4, 3))
def test_any_chain(steps, axis):
    steps = [*steps, f"Concat <axis = {axis}> ({{0}}, {{0}})"]
    names = ["x", *(f"v{i}" for i in range(len(steps) - 1)), "y"]
    pairs = pairwise(names)
    lines = [f"{y} = {step.format(x)}" for step, (x, y) in zip(steps, pairs, strict=True)]
    constants = {"c": uniform(3, 1, 1), "row": uniform(3, seed=1)}
    # Every axis has size 3, so that no shape tells a right axis from a wrong one.
    model = parse("\n".join(lines), inputs="float[N,3,3,3] x", **constants)
    _, after = sink(model, x=uniform(3, 3, 3, 3))
    assert ops(after).count("Transpose") <= 1, "what is left has joined before the output"
