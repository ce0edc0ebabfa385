"""FP16 typing: what becomes FP16, what stays, what is cast, and that the numbers are FP16's."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exporter.errors import WrongUse
from exporter.passes import LAYER_KEY, schemes
from exporter.passes.to_fp16 import ToFp16, tensors_to_measure
from tests.exporter.passes import half_graphs
from tests.exporter.passes.graphs import parse
from tests.exporter.passes.half_graphs import rounded, simulated, typed, types
from tests.exporter.passes.qdq_graphs import CONV, X, constant, net, quantize, run

RESIDUAL = f"c = {CONV} (x, w1, b) r = Relu (c) e = {CONV} (r, w2, bb) s = Add (e, r) y = Relu (s)"


def test_everything_is_fp16_between_two_casts():
    report, after = typed(net(RESIDUAL))
    assert half_graphs.ops(after) == ["Cast", "Conv", "Relu", "Conv", "Add", "Relu", "Cast"]
    assert report.kept == []
    assert report.applied == ["c", "r", "e", "s", "y"]
    found = types(after)
    assert found["x"] == found["y"] == "fp32"
    assert {found[name] for name in ("x_fp16", "c", "r", "e", "s", "y_fp16")} == {"fp16"}


def test_constants_are_rounded_once_and_keep_their_names():
    model = net(RESIDUAL)
    _, after = typed(model)
    for name in ("w1", "b", "w2", "bb"):
        expected = constant(model, name).astype(np.float16)
        np.testing.assert_array_equal(constant(after, name), expected, strict=True)


def test_io_fp16_needs_no_cast():
    _, after = typed(net(RESIDUAL), io="fp16")
    assert "Cast" not in half_graphs.ops(after)
    assert types(after)["x"] == types(after)["y"] == "fp16"


def test_simulation_is_fp16_worked_by_hand():
    """1x1 convolution: a matrix product, rounded behind it, as its operands are before."""
    model = net("c = Conv (x, p, b) r = Relu (c) s = Add (r, x) y = Relu (s)")
    _, after = typed(model)
    weight, bias = rounded(constant(model, "p"))[:, :, 0, 0], rounded(constant(model, "b"))
    x = rounded(X)
    product = np.einsum("nihw,oi->nohw", x.astype(np.float64), weight) + bias[:, None, None]
    expected = np.maximum(rounded(np.maximum(rounded(product), 0) + x), 0)
    got = run(simulated(after))["y"]
    assert got.dtype == np.float32
    # Where a product lies within float32's rounding of a tie between two halves, it may fall to
    # either: 2**-10 of 4 at most, seldom.
    np.testing.assert_allclose(got, expected, rtol=0, atol=2.0**-8)
    assert np.mean(got != expected) < 0.001
    plain = run(model)["y"]
    assert np.abs(got - plain).max() < 6 * 2.0**-10 * np.abs(plain).max(), "six roundings"
    assert np.mean(got != plain) > 0.5


def test_onnxruntime_by_itself_leaves_roundings_out():
    """(x * a + 1000) - 1000 is a multiple of 0.5 in FP16; why SimulateFp16 exists."""
    model = parse(
        "m = Mul (x, a) s = Add (m, k) y = Sub (s, k)", opset=18, a=np.float32(1.1),
        k=np.float32(1000), inputs="float[N,4,8,8] x",
    )  # fmt: skip
    _, after = typed(model)
    half = (X.astype(np.float16) * np.float16(1.1) + np.float16(1000)) - np.float16(1000)
    np.testing.assert_array_equal(run(simulated(after))["y"], half.astype(np.float32))
    assert (run(after)["y"] % 0.5 != 0).any()


@pytest.mark.parametrize(
    "op", ["Softmax <axis = 1> (r)", "ReduceMean <keepdims = 1> (r, axes)", "GlobalAveragePool (r)"]
)
def test_softmax_and_means_stay_fp32(op):
    model = net(f"r = {CONV} (x, w1) m = {op} y = Relu (m)")
    if "axes" in op:
        model = net(f"r = {CONV} (x, w1) axes = Constant <value_ints = [2, 3]> () m = {op} y = Relu (m)")  # fmt: skip # noqa: E501
    report, after = typed(model)
    assert [kept.node for kept in report.kept] == ["m"]
    found = types(after)
    assert (found["r"], found["m"], found["y"]) == ("fp16", "fp32", "fp32")
    assert half_graphs.ops(after).count("Cast") == 2, "the ReLU behind stays FP32: no cast pair"


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"w1": 7e4}, "65504"),
        ({"b": 1e5}, "65504"),
        ({"w1": 1e-7, "b": 1e-7}, "weights underflow: 4 of 4"),
    ],
)
def test_constants_out_of_range_keep_their_node(changed, reason):
    shapes = {"w1": (4, 4, 3, 3), "b": (4,)}
    given = {name: np.full(shapes[name], value) for name, value in changed.items()}
    model = net(RESIDUAL, **given)
    values = run(model, extra=("c", "r", "e", "s"))
    report, after = typed(model, {name: float(np.abs(a).max()) for name, a in values.items()})
    assert report.kept[0].node == "c"
    assert reason in report.kept[0].reason
    assert types(after)["c"] == "fp32"
    got = run(simulated(after))["y"]
    np.testing.assert_allclose(got, values["y"], rtol=0, atol=0.01 * np.abs(values["y"]).max())


def test_channel_that_is_dead_keeps_nothing_in_fp32():
    """Weight decay leaves channels of 1e-20: their output is their bias, or nothing."""
    weight = np.random.default_rng(0).uniform(-1, 1, (4, 4, 3, 3))
    weight[1] = 1e-20
    report, _ = typed(net(RESIDUAL, w1=weight, b=[0.5, 0.5, 0.5, 0.5]))
    assert report.kept == []
    report, _ = typed(net(f"y = {CONV} (x, w1)", w1=weight))
    assert report.kept == []


@pytest.mark.parametrize(("largest", "keeps"), [(1e3, False), (1.7e4, True), (1e6, True)])
def test_measured_overflow_keeps_all_that_touch_the_tensor(largest, keeps):
    report, after = typed(net(RESIDUAL), amax={"e": largest})
    assert [kept.node for kept in report.kept] == (["e", "s"] if keeps else [])
    assert types(after)["e"] == ("fp32" if keeps else "fp16")
    if keeps:
        assert "'e' may reach" in report.kept[0].reason


def test_measured_underflow_is_found():
    report, _ = typed(net(RESIDUAL), amax={"e": 1e-7})
    assert "underflows" in report.kept[0].reason
    assert typed(net(RESIDUAL), amax={"e": 0.0})[0].kept == [], "a tensor of zeros is none"


def test_epsilon_that_would_vanish():
    model = net("s = Add (x, eps) q = Sqrt (s) y = Relu (q)", eps=1e-9)
    report, after = typed(model)
    assert [kept.node for kept in report.kept] == ["s", "q"]
    assert "epsilon" in report.kept[0].reason
    assert half_graphs.ops(after) == ["Add", "Sqrt", "Relu"], "all FP32: no cast at all"


def test_bounds_of_a_clip_end_where_fp16_ends():
    report, after = typed(net(f"c = {CONV} (x, w1) y = Clip (c, zero, top)", zero=0, top=3e38))
    assert report.kept == []
    assert constant(after, "top") == np.float16(65504)


def test_inputs_that_must_stay_fp32():
    body = f"""c = {CONV} (x, w1) u = Resize <mode = "linear"> (c, , by) q = Pad (u, pads, v)
        y = LeakyRelu (q)"""
    model = net(body, by=[1, 1, 2, 2], v=0.1)
    pads = np.int64([0, 0, 1, 1, 0, 0, 1, 1])
    model.graph.initializer.append(half_graphs.onnx.numpy_helper.from_array(pads, "pads"))
    _, after = typed(model)
    assert constant(after, "by").dtype == np.float32
    assert constant(after, "v").dtype == np.float16
    assert constant(after, "pads").dtype == np.int64
    plain = run(model)["y"]
    np.testing.assert_allclose(run(simulated(after))["y"], plain, atol=0.005)


@pytest.mark.parametrize(
    "body",
    [
        "y = ConvTranspose <strides = [2, 2]> (x, t, b)",
        f"c = {CONV} (x, w1) e = {CONV} (x, w2) y = Concat <axis = 1> (c, e)",
        f"c = {CONV} (x, w1) y = PRelu (c, slope)",
        "y = Conv <group = 2> (x, g, b)",
        f"c = {CONV} (x, w1) h = HardSigmoid (c) y = Mul (c, h)",
        "a = AveragePool <kernel_shape = [2, 2]> (x) r = Transpose (a) y = Tanh (r)",
    ],
)
def test_ops_of_all_kinds_stay_close(body):
    model = net(body, **({"slope": np.full((4, 1, 1), 0.25)} if "slope" in body else {}))
    report, after = typed(model)
    assert report.kept == []
    plain = run(model)["y"]
    # At most five roundings of 2**-11 on the way, and weights and input before.
    np.testing.assert_allclose(
        run(simulated(after))["y"], plain, rtol=0, atol=2.0**-8 * np.abs(plain).max()
    )


def test_a_cast_of_integers_gives_fp16_at_once():
    model = parse(
        "f = Cast <to = 1> (x) m = Mul (f, a) y = Relu (m)", opset=18,
        inputs="uint8[N,4,8,8] x", a=np.float32(0.5),
    )  # fmt: skip
    _, after = typed(model)
    assert half_graphs.ops(after) == ["Cast", "Mul", "Relu", "Cast"]
    assert types(after)["f"] == "fp16"
    x = np.arange(512, dtype=np.uint8).reshape(2, 4, 8, 8)
    np.testing.assert_array_equal(run(simulated(after), x=x)["y"], x * 0.5)


def test_what_is_inside_of_control_flow_stays_fp32():
    """Its inputs from outside, which no edge of the node shows, get a Cast."""
    yes = "g () => (float[N,4,8,8] z) { z = Relu (m) }"
    no = "h () => (float[N,4,8,8] q) { q = Neg (m) }"
    model = parse(
        f"m = Mul (x, a) i = If (flag) <then_branch = {yes}, else_branch = {no}> y = Mul (i, a)",
        opset=19, flag=np.bool_(True), a=np.float32(0.5), inputs="float[N,4,8,8] x",
    )  # fmt: skip
    half = ToFp16()
    graph = ir.from_proto(model)
    onnx_ir_types(graph)
    half(graph)
    after = ir.to_proto(graph)
    assert half_graphs.ops(after) == ["Cast", "Mul", "Cast", "If", "Cast", "Mul", "Cast"]
    (kept,) = half.report.kept
    assert kept.reason == "a If: what is inside it stays FP32"
    x = np.random.default_rng(0).normal(size=(2, 4, 8, 8)).astype(np.float32)
    np.testing.assert_allclose(run(simulated(after), x=x)["y"], np.maximum(x, 0) / 4, rtol=2**-9)


@pytest.mark.parametrize("op", ["LSTM", "GRU", "RNN"])
def test_recurrent_layers_stay_fp32(op: str):
    gates = {"LSTM": 4, "GRU": 3, "RNN": 1}[op]
    rng = np.random.default_rng(0)
    weights = {
        name: rng.normal(size=(1, gates * 3, 5 if name == "w" else 3)).astype(np.float32)
        for name in "wr"
    }
    model = parse(
        f"m = Mul (x, a) y = {op} <hidden_size = 3> (m, w, r)", opset=19,
        inputs="float[4,N,5] x", outputs="float[4,1,N,3] y", a=np.float32(0.5), **weights,
    )  # fmt: skip
    half = ToFp16()
    graph = ir.from_proto(model)
    onnx_ir_types(graph)
    half(graph)
    assert [kept.reason.split(":")[0] for kept in half.report.kept] == ["a recurrence"]
    x = rng.normal(size=(4, 2, 5)).astype(np.float32)
    got, expected = run(simulated(ir.to_proto(graph)), x=x)["y"], run(model, x=x)["y"]
    assert 0 < np.abs(got - expected).max() < 2e-3


def onnx_ir_types(graph: ir.Model) -> None:
    ir.passes.common.ShapeInferencePass()(graph)


def test_layers_and_names_survive():
    graph = ir.from_proto(net(RESIDUAL))
    for node in graph.graph:
        node.metadata_props[LAYER_KEY] = f"layer_{node.outputs[0].name}"
    _, after = typed(ir.to_proto(graph))
    found = {node.output[0]: {p.key: p.value for p in node.metadata_props} for node in after.graph.node}  # fmt: skip # noqa: E501
    assert found["c"] == {LAYER_KEY: "layer_c"}
    assert found["y"] == {LAYER_KEY: "layer_y"}, "the Cast that gives the output"


def test_int8_with_fp16_around():
    body = f"{RESIDUAL.replace(' y = Relu (s)', '')} y = {CONV} (s, w3, b)"
    model = net(body)
    scheme = schemes.lookup("tensorrt")
    _, int8 = quantize(model, scheme)
    report, after = typed(int8)
    assert report.kept == []
    assert types(after)["c"] == "fp16"
    for name in ("w1_quantized", "w2_quantized"):
        np.testing.assert_array_equal(constant(after, name), constant(int8, name), strict=True)
    assert constant(after, "w1_scale").dtype == constant(after, "b").dtype == np.float16
    casts = [node for node in after.graph.node if node.op_type == "Cast"]
    assert [node.output[0] for node in casts] == ["y"], "Q reads the FP32 input itself"
    plain, got = run(int8)["y"], run(simulated(after))["y"]
    assert 0 < np.abs(got - plain).max() < 0.02 * np.abs(plain).max(), "a step or two of INT8"


def test_a_scale_that_underflows_keeps_its_pair_fp32():
    model = net(f"c = {CONV} (x, w1, b) r = Relu (c) y = {CONV} (r, w2)", w1=np.full((4, 4, 3, 3), 1e-5), b=np.full(4, 1e-4))  # fmt: skip # noqa: E501
    _, int8 = quantize(model, schemes.lookup("tensorrt"))
    report, after = typed(int8)
    kept = {each.node: each.reason for each in report.kept}
    assert {"r_quantized/QuantizeLinear", "c"} <= set(kept)
    assert "weight: its scale" in kept["c"]
    assert types(after)["r_dequantized"] == "fp32"
    np.testing.assert_allclose(run(simulated(after))["y"], run(int8)["y"], rtol=0, atol=1e-5)


def test_one_quantised_tensor_for_readers_of_both_types():
    """A DQ gives its reader's type, by a second DQ, not by a Cast; both with the same scale."""
    model = net(f"c = {CONV} (x, w1) e = {CONV} (x, w2) y = Add (c, e)", w1=np.full((4, 4, 3, 3), 7e4))  # fmt: skip # noqa: E501
    from exporter.passes.insert_qdq import InsertQdq

    graph = ir.from_proto(model)
    InsertQdq(schemes.lookup("tensorrt"), {"x": (-1, 1), "c": (-1, 1), "e": (-1, 1)}, keep=["c"])(
        graph
    )
    report, after = typed(ir.to_proto(graph))
    assert "c" in [kept.node for kept in report.kept]
    found = [node for node in after.graph.node if node.op_type == "DequantizeLinear"]
    by_name = {node.output[0]: node for node in found}
    scales = [constant(after, by_name[n].input[1]) for n in ("x_dequantized", "x_dequantized_fp16")]
    assert {scale.dtype for scale in scales} == {np.dtype(np.float16), np.dtype(np.float32)}
    assert float(scales[0]) == float(scales[1])


def test_what_it_refuses():
    graph = ir.from_proto(net(RESIDUAL))
    with pytest.raises(WrongUse, match="opset 18, but FP16 needs opset 19"):
        ToFp16()(graph)


@settings(deadline=None, max_examples=25)
@given(
    steps=st.lists(
        st.sampled_from(["conv", "relu", "add", "softmax", "pool", "clip", "mul"]),
        min_size=1,
        max_size=7,
    ),
    io=st.sampled_from(["fp32", "fp16"]),
    large=st.booleans(),
)
def test_any_chain_is_typed_consistently_and_stays_close(steps, io, large):
    """`typed` holds the result against ONNX's own type inference, and the lint."""
    texts = {
        "conv": f"{CONV} ({{}}, w1, b)", "relu": "Relu ({})", "add": "Add ({}, {})",
        "softmax": "Softmax <axis = 1> ({})", "pool": "MaxPool <kernel_shape = [1, 1]> ({})",
        "clip": "Clip ({}, zero, six)", "mul": "Mul ({}, scale)",
    }  # fmt: skip
    names = ["x", *(f"v{i}" for i in range(len(steps) - 1)), "y"]
    body = " ".join(
        f"{result} = {texts[step].format(source, source)}"
        for step, source, result in zip(steps, names, names[1:], strict=False)
    )
    given = {"zero": 0, "six": 6, "scale": np.full((4, 1, 1), 0.5), "w1": np.eye(4)[:, :, None, None] * np.eye(3)}  # fmt: skip # noqa: E501
    model = net(body, **{name: value for name, value in given.items() if name in body})
    _, after = typed(model, amax={"v0": 1e6} if large else {}, io=io)
    plain = run(model)["y"]
    np.testing.assert_allclose(
        run(simulated(after))["y"], plain, rtol=0, atol=2.0**-7 * max(1, np.abs(plain).max())
    )


def test_a_steep_leaky_relu_is_measured_and_kept():
    """Below a slope of 1 its output is no larger than its input; above, it may overflow."""
    body, inputs = "r = LeakyRelu <alpha = {}> (x) y = Neg (r)", "float[N,4,8,8] x"
    steep, flat = (
        ir.from_proto(parse(body.format(alpha), opset=19, inputs=inputs)) for alpha in (10.0, 0.1)
    )
    assert "r" in tensors_to_measure(steep)
    assert "r" not in tensors_to_measure(flat)
    half = ToFp16({"x": 4e3, "r": 4e4, "y": 4e4})
    half(steep)
    assert {kept.node for kept in half.report.kept} == {"r", "y"}


def test_a_constant_in_a_concat_counts():
    model = parse(
        "k = Concat <axis = 0> (x, big) y = Neg (k)",
        opset=19,
        inputs="float[N,4,8,8] x",
        big=np.full((1, 4, 8, 8), 7e4, np.float32),
    )
    half = ToFp16({"x": 1.0})
    half(ir.from_proto(model))
    assert {kept.node for kept in half.report.kept} == {"k", "y"}


def test_what_has_no_fp16_form_reads_fp32():
    """IsInf takes FP16 from opset 20 on."""
    model = parse(
        "a = Neg (x) i = IsInf (a) y = Cast <to = 1> (i)", opset=19, inputs="float[N,4,8,8] x"
    )
    report, after = typed(model)
    assert types(after)["a"] == "fp16"
    (isinf,) = [node for node in after.graph.node if node.op_type == "IsInf"]
    assert types(after)[isinf.input[0]] == "fp32"
    assert [kept.node for kept in report.kept] == ["i"]
