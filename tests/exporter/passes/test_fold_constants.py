"""FoldConstants against numpy in float64 and onnx's reference evaluator."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator

from exporter.passes import Kept
from exporter.passes.fold_constants import FoldConstants

HEADER = '<ir_version: 8, opset_import: ["" : 17, "other" : 1]>'


def parse(text, **arrays):
    model = onnx.parser.parse_model(f"{HEADER}\nnet {text}")
    for name, array in arrays.items():
        model.graph.initializer.append(numpy_helper.from_array(np.asarray(array), name))
    return onnx.shape_inference.infer_shapes(model)


def fold(model, **feeds):
    """Fold, and check that outputs stay what they were to a few float32 roundings."""
    graph = ir.from_proto(model)
    folding = FoldConstants()
    result = folding(graph)
    after = ir.to_proto(graph)
    onnx.checker.check_model(after, full_check=True)
    assert result.modified == bool(folding.report.applied)
    before_outputs = ReferenceEvaluator(model).run(None, feeds)
    after_outputs = ReferenceEvaluator(after).run(None, feeds)
    for expected, got in zip(before_outputs, after_outputs, strict=True):
        assert got.dtype == expected.dtype
        # The unfolded chain rounds at each of its at most 10 nodes, by 6e-8 of its value.
        limit = 1e-6 * np.max(np.abs(expected), initial=0)
        np.testing.assert_allclose(got, expected, rtol=0, atol=limit)
    assert not FoldConstants()(graph).modified, "a second call finds nothing to do"
    return folding, after


def ops(model):
    return [node.op_type for node in model.graph.node]


def initializers(model):
    return {i.name: numpy_helper.to_array(i) for i in model.graph.initializer}


def uniform(*shape, seed=0):
    return np.random.default_rng(seed).uniform(0.5, 2, shape).astype(np.float32)


X = uniform(2, 64, seed=9)
SCALE = """(float[N,64] x) => (float[N,64] y) {
    [sum] shifted = Add(var, epsilon)
    [root] deviation = Sqrt(shifted)
    [inverse] inverted = Reciprocal(deviation)
    [product] scale = Mul(gamma, inverted)
    [scaling] y = Mul(x, scale)
}"""


def scale_arrays(seed=0):
    epsilon = np.float32(1e-3)
    return {"var": uniform(64, seed=seed), "gamma": uniform(64, seed=seed + 1), "epsilon": epsilon}


def test_float32_chain_is_rounded_once():
    arrays = scale_arrays()
    folding, after = fold(parse(SCALE, **arrays), x=X)
    assert folding.report.applied == ["sum", "root", "inverse", "product"]
    assert folding.report.kept == []
    assert ops(after) == ["Mul"]
    gamma, var, epsilon = (arrays[n].astype(np.float64) for n in ("gamma", "var", "epsilon"))
    exact = (gamma * (1 / np.sqrt(var + epsilon))).astype(np.float32)
    assert list(initializers(after)) == ["scale"]
    np.testing.assert_array_equal(initializers(after)["scale"], exact)
    in_float32 = arrays["gamma"] / np.sqrt(arrays["var"] + arrays["epsilon"])
    assert (in_float32 != exact).any(), "the data can tell float64 from float32"


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 2**16))
def test_rounded_once_whatever_the_numbers(seed):
    arrays = scale_arrays(seed)
    wide = {name: array.astype(np.float64) for name, array in arrays.items()}
    graph = ir.from_proto(parse(SCALE, **arrays))
    FoldConstants()(graph)
    exact = wide["gamma"] * (1 / np.sqrt(wide["var"] + wide["epsilon"]))
    got = graph.graph.initializers["scale"].const_value.numpy()
    np.testing.assert_array_equal(got, exact.astype(np.float32))


def test_float64_passes_layout_ops_and_a_cast_to_float32():
    text = """(float[N,8] x) => (float[N,8] y) {
        third = Div(numbers, three)
        same = Cast <to = 1> (third)
        column = Reshape(same, shape)
        row = Transpose <perm = [1, 0]> (column)
        parts = Mul(row, seven)
        y = Mul(x, parts)
    }"""
    numbers, three, seven = uniform(8), np.float32(3), np.float32(7)
    model = parse(text, numbers=numbers, three=three, seven=seven, shape=np.array([8, 1]))
    folding, after = fold(model, x=uniform(2, 8))
    assert len(folding.report.applied) == 5
    exact = (numbers.astype(np.float64) / 3 * 7).astype(np.float32)
    np.testing.assert_array_equal(initializers(after)["parts"][0], exact)
    assert (numbers / three * seven != exact).any(), "the data can tell float64 from float32"


def test_cast_to_integers_is_applied():
    text = """(int64[N] x) => (int64[N] y) {
        half = Div(seven, two)
        whole = Cast <to = 7> (half)
        y = Add(x, whole)
    }"""
    model = parse(text, seven=np.float32(7), two=np.float32(2))
    _, after = fold(model, x=np.arange(3))
    assert initializers(after)["whole"].dtype == np.int64
    assert initializers(after)["whole"] == 3


def test_a_transposed_weight_stays_float32():
    text = """(float[N,3,8,8] x) => (float[N,4,6,6] y) {
        weight = Transpose <perm = [3, 2, 0, 1]> (hwio)
        y = Conv(x, weight)
    }"""
    hwio = uniform(3, 3, 3, 4)
    folding, after = fold(parse(text, hwio=hwio), x=uniform(1, 3, 8, 8))
    assert len(folding.report.applied) == 1
    np.testing.assert_array_equal(initializers(after)["weight"], hwio.transpose(3, 2, 0, 1))


def test_layout_ops_do_not_promote():
    text = "(float[4] x) => (float[4] y) { t = Identity(w)\n y = Add(x, t) }"
    graph = ir.from_proto(parse(text, w=uniform(4)))
    folding = FoldConstants()
    seen = []
    folding._store = lambda *_: seen.extend(c.array.dtype for c in folding._folded.values())
    folding(graph)
    assert seen == [np.float32]


def test_constant_nodes_are_inputs():
    text = """(float[2] x) => (float[2] y) {
        c = Constant <value_floats = [1.0, 2.0]> ()
        d = Neg(c)
        y = Add(x, d)
    }"""
    folding, after = fold(parse(text), x=uniform(2))
    assert len(folding.report.applied) == 1
    assert ops(after) == ["Add"]
    assert list(initializers(after)) == ["d"]


def test_a_constant_node_that_is_read_stays():
    text = """(float[2] x) => (float[2] y) {
        c = Constant <value_floats = [1.0, 2.0]> ()
        y = Add(x, c)
    }"""
    folding, after = fold(parse(text), x=uniform(2))
    assert folding.report.applied == []
    assert ops(after) == ["Constant", "Add"]


def test_graph_output_keeps_its_name():
    text = "(float[2] x) => (float[2] y, float[2] z) { y = Relu(x)\n z = Add(a, b) }"
    _, after = fold(parse(text, a=uniform(2), b=uniform(2, seed=1)), x=uniform(2))
    assert [output.name for output in after.graph.output] == ["y", "z"]
    assert list(initializers(after)) == ["z"]


def test_several_outputs():
    text = """(float[2] x) => (float[2] y) {
        first, second = Split <axis = 0> (c)
        sum = Add(x, second)
        y = Mul(sum, first)
    }"""
    folding, after = fold(parse(text, c=uniform(4)), x=uniform(2))
    assert len(folding.report.applied) == 1
    assert set(initializers(after)) == {"first", "second"}


def test_used_inside_and_outside_the_chain():
    text = """(float[4] x) => (float[4] y) {
        a = Sqrt(c)
        b = Sqrt(a)
        s = Mul(x, a)
        y = Add(s, b)
    }"""
    _, after = fold(parse(text, c=uniform(4)), x=uniform(4))
    assert set(initializers(after)) == {"a", "b"}


def test_opset_of_the_model_counts():
    # Axes are an attribute up to opset 12, and an input that this node hasn't from 13 on.
    text = "(float[2] x) => (float[1,2] y) { s = Unsqueeze <axes = [0]> (c)\n y = Add(x, s) }"
    model = onnx.parser.parse_model(f'<ir_version: 7, opset_import: ["" : 11]>\nnet {text}')
    model.graph.initializer.append(numpy_helper.from_array(uniform(2), "c"))
    _, after = fold(model, x=uniform(2))
    assert initializers(after)["s"].shape == (1, 2)


def test_initializers_that_nothing_reads_any_more_go():
    _, after = fold(parse(SCALE, **scale_arrays()), x=X)
    assert set(initializers(after)) == {"scale"}


# What must not fold.


def left_alone(text, reason=None, **arrays):
    graph = ir.from_proto(parse(text, **arrays))
    before = [node.op_type for node in graph.graph]
    folding = FoldConstants()
    assert not folding(graph).modified
    assert [node.op_type for node in graph.graph] == before
    assert folding.report.applied == []
    assert folding.report.kept == ([] if reason is None else [Kept("n", reason)])


def test_initializer_that_is_a_graph_input():
    text = "(float[2] x, float[2] c) => (float[2] y) { d = Neg(c)\n y = Add(x, d) }"
    left_alone(text, c=uniform(2))


def test_nothing_constant():
    left_alone("(float[2] x) => (float[2] y) { y = Relu(x) }")


@pytest.mark.parametrize("op", ["RandomNormalLike", "RandomUniformLike", "Bernoulli"])
def test_random(op):
    text = f"(float[2] x) => (float[2] y) {{ [n] r = {op}(c)\n y = Add(x, r) }}"
    left_alone(text, "random", c=uniform(2))


def test_other_domain():
    text = "(float[2] x) => (float[2] y) { [n] r = other.Op(c)\n y = Add(x, r) }"
    left_alone(text, "op of domain other", c=uniform(2))


def test_quantization():
    text = "(float[2] x) => (float[2] y) { [n] r = DequantizeLinear(q, s)\n y = Add(x, r) }"
    reason = "quantization is kept for the target"
    left_alone(text, reason, q=np.array([1, 2], np.int8), s=np.float32(0.1))


@pytest.mark.parametrize(
    "op", ["Softmax(c)", "LRN <size=3> (c)", "MaxPool <kernel_shape=[1,1]>(c)"]
)
def test_what_the_reference_evaluator_gets_wrong(op):
    text = f"(float[1,2,1,1] x) => (float[1,2,1,1] y) {{ [n] r = {op}\n y = Add(x, r) }}"
    left_alone(text, "onnx's reference evaluator isn't trusted with it", c=uniform(1, 2, 1, 1))


@pytest.mark.parametrize("expression", ["ConstantOfShape(shape)", "Expand(one, shape)"])
def test_far_larger_than_its_inputs(expression):
    # 4 TB: computing it first and looking after would end the process.
    text = f"""(float[1] x) => (float y) {{
        [n] r = {expression}
        s = Add(x, r)
        y = ReduceSum <keepdims = 0> (s)
    }}"""
    arrays = {"shape": np.array([1000, 1000, 1000, 1000]), "one": np.ones(1, np.float32)}
    if "one" not in expression:
        del arrays["one"]
    left_alone(text, "result of 4000000000000 bytes is far larger than the inputs", **arrays)


def test_growth_limits_are_both_needed():
    text = "(float[1] x) => (float[N] y) { [n] r = Tile(c, times)\n y = Add(x, r) }"
    small = parse(text, c=uniform(10), times=np.array([100]))  # 100 times, but 4 kB
    assert fold(small, x=uniform(1))[0].report.applied == ["n"]
    large = parse(text, c=uniform(200_000), times=np.array([4]))  # 3.2 MB, but 4 times
    assert fold(large, x=uniform(1))[0].report.applied == ["n"]
    left_alone(
        text,
        "result of 1600000 bytes is far larger than the inputs",
        c=uniform(4000),
        times=np.array([100]),
    )


def test_ops_with_subgraphs():
    text = """(float[2] x) => (float[2] y) {
        [n] r = If (condition) <
            then_branch = g1 () => (float[2] a) { a = Identity(c) },
            else_branch = g2 () => (float[2] b) { b = Neg(c) }
        >
        y = Add(x, r)
    }"""
    left_alone(text, "has a subgraph", condition=np.array(True), c=uniform(2))


def test_a_constant_read_in_a_subgraph_stays():
    text = """(float[2] x, bool condition) => (float[2] y) {
        [n] folded = Neg(c)
        y = If (condition) <
            then_branch = g1 () => (float[2] a) { a = Add(x, folded) },
            else_branch = g2 () => (float[2] b) { b = Neg(x) }
        >
    }"""
    folding, after = fold(parse(text, c=uniform(2)), x=uniform(2), condition=np.array(True))
    assert folding.report.applied == ["n"]
    assert list(initializers(after)) == ["folded"]
