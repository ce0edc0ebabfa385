"""The cpu scheme in onnxruntime's own optimised graph: everything becomes an integer kernel."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx_ir.passes import common

from exporter.passes import Kept, schemes
from exporter.passes.dense_to_gemm import DenseToGemm
from exporter.passes.lint_qdq import lint_qdq
from exporter.passes.mean_to_pool import MeanToPool
from tests.exporter.passes.qdq_graphs import CONV, LEVELS, net, placement, quantize, run

CPU = schemes.lookup("cpu")
# 7-bit weights: U8S8 saturates on machines without VNNI, and the test must hold on these too.
EXACT = schemes.lookup("cpu", reduce_range=True)

RESNET = """
    s1 = Conv <strides = [2, 2], pads = [3, 3, 3, 3]> (x, stem, b8)
    s2 = Relu (s1)
    s3 = MaxPool <kernel_shape = [3, 3], strides = [2, 2], pads = [1, 1, 1, 1]> (s2)
    a1 = Conv <pads = [1, 1, 1, 1]> (s3, wa1, b8) a2 = Relu (a1)
    a3 = Conv <pads = [1, 1, 1, 1]> (a2, wa2, b8)
    a4 = Add (a3, s3) a5 = Relu (a4)
    b1 = Conv (a5, wb1, b8) b2 = Relu (b1)
    b3 = Conv <group = 4, strides = [2, 2], pads = [1, 1, 1, 1]> (b2, wb2, b8) b4 = Relu (b3)
    b5 = Conv (b4, wb3) b6 = Conv <strides = [2, 2]> (a5, proj, b16)
    b7 = Add (b5, b6) b9 = Relu (b7)
    mean = ReduceMean <keepdims = 0> (b9, axes)
    h = MatMul (mean, head) y = Add (h, hb)"""
RESNET_SHAPES = {
    "stem": (8, 4, 7, 7),
    "wa1": (8, 8, 3, 3),
    "wa2": (8, 8, 3, 3),
    "wb1": (8, 8, 1, 1),
    "wb2": (8, 2, 3, 3),
    "wb3": (16, 8, 1, 1),
    "proj": (16, 8, 1, 1),
    "b8": (8,),
    "b16": (16,),
    "head": (16, 10),
    "hb": (10,),
}
BIG = np.random.default_rng(2).uniform(-1, 1, (3, 4, 32, 32)).astype(np.float32)


def small_resnet():
    rng = np.random.default_rng(8)
    arrays = {n: rng.normal(size=s) / np.sqrt(s[-1]) for n, s in RESNET_SHAPES.items()}
    model = net(RESNET, outputs="float[a,b] y", **arrays)
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([2, 3]), "axes"))
    model.graph.input[0].CopyFrom(
        onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["N", 4, 32, 32])
    )
    del model.graph.value_info[:]
    graph = ir.from_proto(model)
    common.ShapeInferencePass()(graph)
    pooling, joining = MeanToPool(), DenseToGemm()
    pooling(graph)
    joining(graph)
    assert pooling.report.applied == ["mean"]
    assert joining.report.applied == ["h"]
    after = ir.to_proto(graph)
    onnx.checker.check_model(after, full_check=True)
    np.testing.assert_allclose(run(after, x=BIG)["y"], run(model, x=BIG)["y"], rtol=1e-4, atol=1e-4)
    return after


def optimized_ops(model, path, x, disabled=()):
    outputs = run(model, level=LEVELS.ORT_ENABLE_EXTENDED, x=x, save=path, disabled=disabled)
    return Counter(node.op_type for node in onnx.load(path).graph.node), outputs


@pytest.mark.parametrize("level", [LEVELS.ORT_ENABLE_EXTENDED, LEVELS.ORT_ENABLE_ALL])
def test_everything_in_a_resnet_is_fused(tmp_path, level):
    _, after = quantize(small_resnet(), CPU, x=BIG)
    path = tmp_path / "optimized.onnx"
    run(after, level=level, x=BIG, save=path)
    ops = Counter(node.op_type for node in onnx.load(path).graph.node)
    if level == LEVELS.ORT_ENABLE_ALL:  # its convolutions take NHWC, so it moves the channels
        assert ops.pop("Transpose") == 2
        ops["MaxPool"] = ops.pop("NhwcMaxPool")
    assert ops == {
        "QuantizeLinear": 1,
        "QLinearConv": 7,
        "QLinearAdd": 2,
        "MaxPool": 1,
        "QLinearGlobalAveragePool": 1,
        "Flatten": 1,
        "QGemm": 1,
    }


def test_fused_kernels_give_what_the_pairs_say(tmp_path):
    model = small_resnet()
    _, after = quantize(model, EXACT, x=BIG)
    simulated = run(after, x=BIG)["y"]
    _, outputs = optimized_ops(after, tmp_path / "optimized.onnx", BIG)
    span = np.ptp(simulated)
    # A value at the middle between two steps may go either way at each of nine roundings.
    np.testing.assert_allclose(outputs["y"], simulated, rtol=0, atol=0.02 * span)
    np.testing.assert_allclose(simulated, run(model, x=BIG)["y"], rtol=0, atol=0.1 * span)


def reads_of(body, **arguments):
    inserting, after = quantize(net(body, **arguments), CPU)
    assert lint_qdq(ir.from_proto(after), CPU) == []
    return placement(after), inserting, after


def test_each_input_and_output_has_a_pair():
    body = f"""c1 = {CONV} (x, w1, b) r = Relu (c1) c2 = {CONV} (r, w2, bb)
        s = Add (c2, x) y = Relu (s)"""
    reads, _, after = reads_of(body)
    assert reads == {
        "c1": ["q(x)", "q(w1)", "q(b)"],
        "r": ["c1"],
        "c2": ["q(r)", "q(w2)", "q(bb)"],
        "s": ["q(c2)", "q(x)"],
        "y": ["s"],
    }
    assert [node.op_type for node in after.graph.node][-2:] == [
        "QuantizeLinear",
        "DequantizeLinear",
    ]


@pytest.mark.parametrize(
    ("body", "constants", "expected"),
    [
        (
            f"c = {CONV} (x, w1, b) r = Clip (c, zero, six) y = {CONV} (r, w2)",
            {"zero": 0, "six": 0.4},
            {"QLinearConv": 2},
        ),
        (
            "c = Conv <group = 4> (x, d, b) r = Relu (c) y = Conv <group = 2> (r, g)",
            {},
            {"QLinearConv": 2},
        ),
        (
            f"c = {CONV} (x, w1) r = Relu (c) e = {CONV} (x, w2) q = Relu (e)"
            f" j = Concat <axis = 0> (r, q) y = {CONV} (j, w3)",
            {},
            {"QLinearConv": 3, "QLinearConcat": 1},
        ),
        (
            f"c = {CONV} (x, w1) r = Relu (c) e = {CONV} (x, w2)"
            f" j = Concat <axis = 0> (r, e) y = {CONV} (j, w3)",
            {},
            {"QLinearConv": 3, "QLinearConcat": 1},
        ),
        (
            f"m = AveragePool <kernel_shape = [2, 2]> (x) c = {CONV} (m, w1)"
            " s = Sigmoid (c) y = Mul (s, c)",
            {},
            {"QLinearAveragePool": 1, "QLinearConv": 1, "QLinearSigmoid": 1, "QLinearMul": 1},
        ),
    ],
    ids=["relu6", "groups", "concat", "concat-of-signed-and-not", "swish"],
)
def test_no_pair_is_left_inside(tmp_path, body, constants, expected):
    _, after = quantize(net(body, **constants), CPU)
    ops, _ = optimized_ops(after, tmp_path / "optimized.onnx", run(after)["x"])
    assert ops == {"QuantizeLinear": 1, "DequantizeLinear": 1, **expected}


def test_transposed_convolution_stays_float():
    _, inserting, _ = reads_of("y = ConvTranspose (x, t)")
    reason = "the cpu scheme has no integer ConvTranspose"
    assert inserting.report.kept == [Kept("y", reason)]


def test_kept_convolution_is_float_between_integers(tmp_path):
    body = f"c1 = {CONV} (x, w1) r = Relu (c1) c2 = {CONV} (r, w2) y = {CONV} (c2, w3)"
    _, after = quantize(net(body), CPU, keep=["c2"])
    # It quantises any float Conv between DQ and Q by itself, and the weight with a single scale.
    undoing = ["WeightBiasQuantization"]
    ops, _ = optimized_ops(after, tmp_path / "optimized.onnx", run(after)["x"], undoing)
    assert ops["QLinearConv"] == 2
    assert ops["Conv"] + ops["FusedConv"] == 1
