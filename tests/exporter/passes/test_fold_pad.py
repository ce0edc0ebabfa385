"""FoldPad against onnxruntime, which runs each graph as it is written."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest

from exporter.passes.fold_pad import FoldPad
from tests.exporter.passes.graphs import parse, uniform

X = uniform(2, 3, 6, 5)
W = uniform(4, 3, 3, 3, seed=1)
SAME = np.array([0, 0, 1, 1, 0, 0, 1, 1])
LOPSIDED = np.array([0, 0, 0, 0, 0, 0, 1, 1])
POOL = "y = MaxPool <kernel_shape = [3, 3], strides = [2, 2]> (p)"


def run(model):
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return session.run(None, {"x": X})[0]


def fold(body, **arrays):
    model = parse(body, opset=18, inputs="float[N,3,6,5] x", **arrays)
    graph = ir.from_proto(model)
    folding = FoldPad()
    assert folding(graph).modified == bool(folding.report.applied)
    after = ir.to_proto(graph)
    onnx.checker.check_model(after, full_check=True)
    # Sums of at most 27 products of up to 4, the zeros among them or not.
    np.testing.assert_allclose(run(after), run(model), rtol=0, atol=1e-4, strict=True)
    return folding.report, [node.op_type for node in after.graph.node]


@pytest.mark.parametrize("pads", [SAME, LOPSIDED, np.array([0, 0, 3, 4, 0, 0, 0, 5])])
@pytest.mark.parametrize(
    "options", ["", "<strides = [2, 2]>", '<auto_pad = "VALID">', "<pads = [1, 0, 0, 2]>"]
)
def test_a_convolution_takes_the_padding(pads, options):
    report, ops = fold(f"p = Pad (x, pads) y = Conv {options} (p, w)", pads=pads, w=W)
    assert report.applied == ["p"]
    assert ops == ["Conv"]


def test_a_depthwise_convolution_with_an_explicit_zero():
    body = "p = Pad (x, pads, zero) y = Conv <group = 3> (p, w)"
    report, ops = fold(body, pads=SAME, zero=np.float32(0), w=W[:3, :1])
    assert report.applied == ["p"]
    assert ops == ["Conv"]


@pytest.mark.parametrize("before", ["r = Relu (x)", "r = Clip (x, low)", "r = Sigmoid (x)"])
def test_a_max_pooling_takes_it_where_nothing_is_negative(before):
    arrays = {"low": np.float32(0)} if "low" in before else {}
    report, ops = fold(f"{before} p = Pad (r, pads) {POOL}", pads=SAME, **arrays)
    assert report.applied == ["p"]
    assert ops[1:] == ["MaxPool"]


CONV = "y = Conv (p, w)"


@pytest.mark.parametrize(
    ("body", "pads", "reason"),
    [
        (f'p = Pad <mode = "reflect"> (x, pads) {CONV}', SAME, "mode is 'reflect'"),
        (f"p = Pad (x, pads, one) {CONV}", SAME, "other values than zero"),
        (f"p = Pad (x, pads) {CONV}", -SAME, "crops"),
        (f"p = Pad (x, pads, , axes) {CONV}", np.array([1, 1, 1, 1]), "chosen axes"),
        ("p = Pad (x, pads) y = Relu (p)", np.array([0, 1] * 4), "batch or channels"),
        ("p = Pad (x, pads) y = Relu (p)", SAME, "Relu doesn't pad"),
        ("p = Pad (x, pads) y = Add (p, p)", SAME, "used elsewhere"),
        ('p = Pad (x, pads) y = Conv <auto_pad = "SAME_UPPER"> (p, w)', SAME, "is SAME_UPPER"),
        (f"p = Pad (x, pads) {POOL}", SAME, "may be negative"),
        (f"r = Clip (x, minus) p = Pad (r, pads) {POOL}", SAME, "may be negative"),
        (f"r = Relu (x) p = Pad (r, pads) {POOL}", 3 * SAME, "lie in the padding"),
        (
            "r = Relu (x) p = Pad (r, pads) "
            "y = MaxPool <kernel_shape = [2, 2], strides = [2, 2], ceil_mode = 1> (p)",
            SAME,
            "rounds up",
        ),
    ],
)
def test_left_alone_with_its_reason(body, pads, reason):
    known = {"w": W, "one": np.float32(1), "minus": np.float32(-1), "axes": np.array([2, 3])}
    report, ops = fold(body, pads=pads, **{k: v for k, v in known.items() if k in body})
    assert report.applied == []
    assert [kept.node for kept in report.kept] == ["p"]
    assert reason in report.kept[0].reason
    assert "Pad" in ops


def test_a_pooling_that_gives_places_keeps_its_padding():
    """They count in the padded tensor, and would count in another without it."""
    body = f"r = Relu (x) p = Pad (r, pads) {POOL.replace('y =', 'y, i =')}"
    assert fold(body, pads=SAME)[0].applied == ["p"], "nobody reads them"
    model = parse(
        body,
        opset=18,
        inputs="float[N,3,6,5] x",
        outputs="float[a,b,c,d] y, int64[a,b,c,d] i",
        pads=SAME,
    )
    folding = FoldPad()
    assert not folding(ir.from_proto(model)).modified
    assert folding.report.kept[0].reason.endswith("gives places in the padded tensor too")
