"""Equalize against onnxruntime on the graph before it, and against its formula."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exporter.passes.equalize import Equalize
from tests.exporter.passes.qdq_graphs import CONV, constant, net, run

# Two layers of at most 50 products, each rounded by 6e-8, scaled weights rounded once more; the
# outputs are compared with their largest. A channel scaled on one side only is off by 1e-1.
TOLERANCE = 1e-5


def equalize(body, outputs="float[a,b,c,d] y", **constants):
    """Equalise, and check that the function and the border's names are the same."""
    before = net(body, outputs=outputs, **constants)
    graph = ir.from_proto(before)
    equalizing = Equalize()
    result = equalizing(graph)
    after = ir.to_proto(graph)
    onnx.checker.check_model(after, full_check=True)
    assert result.modified == bool(equalizing.report.applied)
    expected, got = run(before)["y"], run(after)["y"]
    np.testing.assert_allclose(got, expected, rtol=0, atol=TOLERANCE * np.abs(expected).max())
    return equalizing.report, after


def uneven(*shape, seed=0):
    """Weights whose rows and columns have ranges over two powers of ten."""
    rng = np.random.default_rng(seed)
    array = rng.uniform(-1, 1, shape)
    array *= 10 ** rng.uniform(-2, 0, (shape[0], *[1] * (len(shape) - 1)))
    return (array * 10 ** rng.uniform(-2, 0, (1, shape[1], *[1] * (len(shape) - 2)))).astype("f")


def reasons(report):
    return {kept.node: kept.reason for kept in report.kept}


def test_formula():
    w1, w2, b = uneven(4, 4, 3, 3), uneven(4, 4, 3, 3, seed=1), np.float32([1e-4, -1e-4, 0, 0])
    report, after = equalize(
        f"c = {CONV} (x, w1, b) r = Relu (c) y = {CONV} (r, w2)", w1=w1, w2=w2, b=b
    )
    assert report.applied == ["c"]
    assert reasons(report) == {"y": "its output is the graph's"}
    r1, r2 = np.abs(w1).max((1, 2, 3)), np.abs(w2).max((0, 2, 3))
    s = np.sqrt(r1.astype("d") * r2) / r2
    np.testing.assert_allclose(constant(after, "w1"), w1 / s[:, None, None, None], rtol=1e-6)
    np.testing.assert_allclose(constant(after, "w2"), w2 * s[None, :, None, None], rtol=1e-6)
    np.testing.assert_allclose(constant(after, "b"), b / s, rtol=1e-6)


@pytest.mark.parametrize(
    ("first", "w1", "second", "w2"),
    [
        (CONV, (4, 4, 3, 3), CONV.replace("<", "<group = 2, "), (6, 2, 3, 3)),
        (CONV.replace("<", "<group = 2, "), (4, 2, 3, 3), CONV, (6, 4, 3, 3)),
        (CONV, (4, 4, 3, 3), CONV.replace("<", "<group = 4, "), (8, 1, 3, 3)),
        (CONV, (4, 4, 3, 3), "ConvTranspose", (4, 5, 2, 2)),
        ("ConvTranspose", (4, 6, 2, 2), CONV, (3, 6, 3, 3)),
        (
            "ConvTranspose <group = 2>",
            (4, 3, 2, 2),
            CONV.replace("<", "<group = 3, "),
            (3, 2, 3, 3),
        ),
    ],
)
def test_kinds_of_convolution(first, w1, second, w2):
    body = f"c = {first} (x, w1) r = Relu (c) y = {second} (r, w2)"
    report, after = equalize(body, w1=uneven(*w1), w2=uneven(*w2, seed=1))
    assert report.applied == ["c"]
    assert not np.array_equal(constant(after, "w1"), uneven(*w1))


@pytest.mark.parametrize(
    "between",
    [
        "m = LeakyRelu <alpha = 0.3> (c)",
        "m = PRelu (c, slope)",
        "m = MaxPool <kernel_shape = [2, 2], pads = [0, 0, 1, 1]> (c)",
        "r = Relu (c) m = AveragePool <kernel_shape = [2, 2]> (r)",
        "m = Identity (c)",
    ],
)
def test_what_may_be_between(between):
    slope = {"slope": [[[0.1]], [[0.2]], [[-0.3]], [[2]]]} if "slope" in between else {}
    body = f"c = {CONV} (x, w1, b) {between} y = {CONV} (m, w2)"
    assert equalize(body, w1=uneven(4, 4, 3, 3), **slope)[0].applied == ["c"]


@pytest.mark.parametrize("transposed", [0, 1])
@pytest.mark.parametrize("pool", [True, False])
def test_dense_layer_behind_a_flatten_reads_each_channel_many_times(pool, transposed):
    features = 4 if pool else 256
    w = uneven(features, 6)
    between = "k = GlobalAveragePool (r)" if pool else "k = Identity (r)"
    body = f"""c = {CONV} (x, w1, b) r = Relu (c) {between} f = Flatten (k)
        h = Gemm <transB = {transposed}, beta = 0.5> (f, w, db) s = Relu (h)
        y = MatMul (s, last)"""
    report, _ = equalize(
        body,
        outputs="float[a,b] y",
        w1=uneven(4, 4, 3, 3),
        w=w.T if transposed else w,
        last=uneven(6, 3),
    )
    assert report.applied == ["c", "h"]


TWO = f"c = {CONV} (x, w1, b) r = Relu (c) y = {CONV} (r, w2)"


@pytest.mark.parametrize(
    ("body", "node", "reason"),
    [
        (f"c = {CONV} (x, w1) r = Clip (c, zero, six) y = {CONV} (r, w2)", "c", "Clip follows"),
        (f"c = {CONV} (x, w1) r = Sigmoid (c) y = {CONV} (r, w2)", "c", "Sigmoid follows"),
        (
            f"c = {CONV} (x, w1) e = {CONV} (c, w2) y = Add (c, e)",
            "c",
            "its output has 2 readers",
        ),
        (f"c = {CONV} (x, w1) s = Add (c, x) y = {CONV} (s, w2)", "c", "Add follows"),
        (f"c = {CONV} (x, w1) y = {CONV} (c, w1)", "c", "c: weights shared"),
        (
            f"c = {CONV} (x, w1, b) e = {CONV} (c, w2) y = {CONV} (e, w3, b)",
            "c",
            "c: weights shared",
        ),
        (f"c = {CONV} (x, w1) y = MatMul (c, square)", "c", "y reads another axis"),
    ],
)
def test_refusals(body, node, reason):
    limits = {"zero": 0, "six": 6} if "Clip" in body else {}
    square = {"square": np.eye(8)} if "square" in body else {}
    report, after = equalize(body, **limits, **square)
    assert reasons(report)[node] == reason
    if not report.applied:
        before = net(body, **limits, **square)
        assert {i.name: i.raw_data for i in after.graph.initializer} == {
            i.name: i.raw_data for i in before.graph.initializer
        }


def test_a_value_that_is_returned_too_stays():
    before = net(TWO, outputs="float[a,b,c,d] r, float[a,b,c,d] y")
    equalizing = Equalize()
    assert not equalizing(ir.from_proto(before)).modified


def test_dead_channels_keep_their_scale_and_tiny_ones_their_bias():
    """Dividing a bias of 0.5 by the s of weights of 1e-9 alone would make it 1e4."""
    w1, w2 = uneven(4, 4, 3, 3), uneven(4, 4, 3, 3, seed=1)
    w1[0], w2[:, 1], w1[2] = 0, 0, 1e-9
    _, after = equalize(TWO, w1=w1, w2=w2, b=[0.3, 0.4, 0.5, 0])
    bias = constant(after, "b")
    np.testing.assert_array_equal(bias[:2], np.float32([0.3, 0.4]))
    assert abs(bias[2]) < 1


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), exponent=st.floats(0, 6), chain=st.booleans())
def test_a_chain_ends_even_and_keeps_its_function(seed, exponent, chain):
    rng = np.random.default_rng(seed)
    shapes = {"w1": (4, 4, 3, 3), "w2": (4, 1 if chain else 4, 3, 3), "w3": (4, 4, 3, 3)}
    weights = {
        name: rng.normal(size=shape) * 10 ** rng.uniform(-exponent, 0, (4, 1, 1, 1))
        for name, shape in shapes.items()
    }
    middle = CONV.replace("<", "<group = 4, ") if chain else CONV
    body = f"c = {CONV} (x, w1) r = Relu (c) e = {middle} (r, w2) s = Relu (e) y = {CONV} (s, w3)"
    report, after = equalize(body, **weights)
    assert report.applied == ["c", "e"]
    found = [np.abs(constant(after, name)) for name in weights]
    inputs = [
        found[1].max((1, 2, 3)) if chain else found[1].max((0, 2, 3)),
        found[2].max((0, 2, 3)),
    ]
    for outputs, following in zip(found[:2], inputs, strict=True):
        np.testing.assert_allclose(outputs.max((1, 2, 3)), following, rtol=5e-3)


def test_a_reader_inside_a_branch_is_no_pair():
    inner = "then_branch = g1 () => (float[a,b,c,d] t) { t = Conv <pads = [1,1,1,1]> (c, w2) }"
    other = "else_branch = g2 () => (float[a,b,c,d] e) { e = Identity (c) }"
    before = net(f"c = {CONV} (x, w1) y = If <{inner}, {other}> (flag)")
    before.graph.initializer.append(onnx.numpy_helper.from_array(np.array(True), "flag"))
    equalizing = Equalize()
    assert not equalizing(ir.from_proto(before)).modified
