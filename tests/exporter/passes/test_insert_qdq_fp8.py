"""FP8: scales, numbers and placement, by hand, by onnx's evaluator and by onnxruntime."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx.reference import ReferenceEvaluator

from calibration.gram import second_moments
from exporter.errors import WrongUse
from exporter.passes import schemes
from exporter.passes.insert_qdq import InsertQdq, tensors_to_calibrate
from exporter.passes.lint_qdq import lint_qdq
from exporter.passes.raise_opset import RaiseOpset
from exporter.passes.round_weights import RoundWeights, layers_to_measure
from exporter.passes.schemes import ConvLimits
from tests.exporter.passes.graphs import parse
from tests.exporter.passes.qdq_graphs import placement, run

FP8 = schemes.lookup("fp8")
E4M3 = onnx.TensorProto.FLOAT8E4M3FN
X = np.random.default_rng(0).uniform(-3, 5, (2, 16, 8, 8)).astype(np.float32)
RNG = np.random.default_rng(1)
SHAPES = {"w": (32, 16, 3, 3), "v": (32, 32, 3, 3), "p": (16, 32, 1, 1), "b": (32,)}
CONV = "Conv <pads = [1, 1, 1, 1]>"


def net(body, outputs="float[a,b,c,d] y", **given):
    shapes = {name: shape for name, shape in SHAPES.items() if name not in given}
    arrays = {
        name: RNG.normal(size=shape).astype(np.float32)
        for name, shape in shapes.items()
        if f"{name})" in body or f"{name}," in body
    }
    arrays |= {name: np.asarray(array, np.float32) for name, array in given.items()}
    return parse(body, outputs=outputs, opset=18, inputs="float[N,16,8,8] x", **arrays)


def quantize(model, *, keep=(), scheme=FP8):
    graph = ir.from_proto(model)
    names = tensors_to_calibrate(graph, scheme, keep=keep)
    values = run(model, extra=names, x=X)
    amax = {name: float(np.abs(values[name]).max()) for name in names}
    ranges = {name: (-largest, largest) for name, largest in amax.items()}
    RaiseOpset()(graph)
    inserting = InsertQdq(scheme, ranges, keep=keep)
    inserting(graph)
    after = ir.to_proto(graph)
    onnx.checker.check_model(after, full_check=True)
    assert [each for each in lint_qdq(graph, scheme) if each.severity == "error"] == []
    return inserting, after


def tensor(model, name):
    (found,) = [each for each in model.graph.initializer if each.name == name]
    return found


def array(model, name):
    return onnx.numpy_helper.to_array(tensor(model, name))


def rounded(values, scale):
    """Q and DQ by ml_dtypes, in float32 as the runtimes divide."""
    divided = np.clip(np.float32(values) / np.float32(scale), -448, 448)
    return divided.astype(ml_dtypes.float8_e4m3fn).astype(np.float32) * np.float32(scale)


def test_scales_and_numbers_by_hand():
    weight = RNG.normal(size=SHAPES["w"]).astype(np.float32)
    weight[3] = 0
    _, after = quantize(net(f"y = {CONV} (x, w)", w=weight))
    amax = np.abs(weight).max(axis=(1, 2, 3))
    expected = np.where(amax == 0, 1, amax / np.float32(448)).astype(np.float32)
    np.testing.assert_allclose(array(after, "w_scale"), expected, rtol=1e-6)
    np.testing.assert_allclose(array(after, "x_scale"), np.abs(X).max() / 448, rtol=1e-6)
    for name in ("w_quantized", "w_zero_point", "x_zero_point"):
        assert tensor(after, name).data_type == E4M3
    for name in ("w_zero_point", "x_zero_point"):
        assert not array(after, name).astype(float).any(), "FP8 has no zero point"
    scaled = weight / expected.astype(np.float64)[:, None, None, None]
    by_hand = np.clip(scaled, -448, 448).astype(np.float32).astype(ml_dtypes.float8_e4m3fn)
    got = array(after, "w_quantized").astype(float)
    # Rounded once from float64 here, by way of float32 there: at a tie they may part.
    assert (got == by_hand.astype(float)).mean() > 0.999
    assert np.abs(got[amax > 0]).max(axis=(1, 2, 3)).min() == 448
    assert after.opset_import[0].version == 19


def test_three_evaluators_agree():
    """onnxruntime, onnx's reference, and float32 convolution of numbers rounded by ml_dtypes."""
    body = f"c = {CONV} (x, w, b) r = Relu (c) y = {CONV} (r, v)"
    model = net(body)
    _, after = quantize(model)
    runtime = run(after, x=X)["y"]
    (reference,) = ReferenceEvaluator(after).run(None, {"x": X})
    by_hand = onnx.ModelProto()
    by_hand.CopyFrom(model)
    for each in by_hand.graph.initializer:
        if each.name in ("w", "v"):
            scale = array(after, f"{each.name}_scale")[:, None, None, None]
            values = array(after, f"{each.name}_quantized").astype(np.float32) * scale
            each.CopyFrom(onnx.numpy_helper.from_array(values, each.name))
    first = run(by_hand, extra=["r"], x=rounded(X, array(after, "x_scale")))["r"]
    second = net(f"y = {CONV} (x, v)".replace("x", "r"), v=np.zeros(SHAPES["v"]))
    second.graph.input[0].name = "x"
    second.graph.node[0].input[0] = "x"
    second.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 32
    for each in second.graph.initializer:
        (same,) = [one for one in by_hand.graph.initializer if one.name == "v"]
        each.CopyFrom(same)
    expected = run(second, x=rounded(first, array(after, "r_scale")))["y"]
    largest = np.abs(expected).max()
    # Sums of 288 float32 products in another order may put a value of r on the other side of a
    # tie, one step of 1/16 of itself: hardly any does.
    for got in (runtime, reference):
        assert np.abs(got - expected).max() < 1e-2 * largest
        assert np.median(np.abs(got - expected)) < 1e-6 * largest
    exact = run(model, x=X)["y"]
    # The relative error of one rounding is at most 2**-4, 2**-5.4 in the mean of squares; three
    # of them add in a sum of many products.
    assert 0.005 < np.abs(runtime - exact).mean() / np.abs(exact).mean() < 0.1


def test_a_scale_below_half_precision_is_raised_where_that_costs_nothing():
    """By hand: 0.01 / 448 is below 2**-14; 2**-14 then holds 0.01 as 163.84, and 1e-9 as 0."""
    weight = RNG.uniform(0.5, 1, SHAPES["w"]).astype(np.float32)
    weight[0] *= np.float32(0.01) / np.abs(weight[0]).max()
    weight[1] *= np.float32(1e-9) / np.abs(weight[1]).max()
    _, after = quantize(net(f"y = {CONV} (x, w)", w=weight))
    scale = array(after, "w_scale")
    assert scale[0] == np.float32(2.0**-14)
    assert array(after, "w_quantized")[0].astype(float).max() == 160  # of 163.84: the step is 16
    np.testing.assert_allclose(scale[1], 1e-9 / 448, rtol=1e-6)
    assert array(after, "w_quantized")[1].astype(float).max() == 448


@pytest.mark.parametrize(
    ("shape", "groups", "reason"),
    [
        ((64, 64, 3, 3), 1, None),
        ((64, 64, 5, 5), 1, None),
        ((64, 64, 4, 8), 1, None),
        ((64, 64, 6, 6), 1, "a 6x6 filter is over 32 weights"),
        ((64, 1, 7, 7), 1, "a 7x7 filter is over 32 weights"),
        ((64, 1, 3, 3), 1, "1 to 64 channels"),
        ((10, 64, 1, 1), 1, "64 to 10 channels"),
        ((40, 24, 1, 1), 1, None),
        ((40, 32, 1, 1), 1, "32 to 40 channels can't be padded alike to 16s"),
        ((64, 1, 3, 3), 64, "a convolution in 64 groups"),
        ((64, 32, 3, 3), 2, "a convolution in 2 groups"),
    ],
)
def test_convolutions_without_a_kernel(shape, groups, reason):
    limits = FP8.convolutions
    assert isinstance(limits, ConvLimits)
    found = limits.refusal(shape, groups)
    assert found == reason if reason is None else found.startswith(reason)


def test_what_stays_in_float_is_reported_and_has_no_pair_for_its_own_sake():
    body = f"c = Conv <pads = [3, 3, 3, 3]> (x, s) r = Relu (c) y = {CONV} (r, v)"
    inserting, after = quantize(net(body, s=RNG.normal(size=(32, 16, 7, 7))))
    assert inserting.report.applied == ["y"]
    (kept,) = inserting.report.kept
    assert (kept.node, kept.reason) == ("c", "a 7x7 filter is over 32 weights: no FP8 kernel")
    assert placement(after)["c"] == ["x", "s"]
    assert placement(after)["y"] == ["q(r)", "q(v)"]


def test_pooling_is_left_alone_and_the_shortcut_has_a_pair():
    body = (
        f"m = MaxPool <kernel_shape = [2, 2]> (x) c = {CONV} (m, w) r = Relu (c)"
        " d = Conv (r, p) a = Add (d, m) t = Relu (a) g = GlobalAveragePool (t)"
        " f = Flatten (g) y = Gemm <transB = 1> (f, k)"
    )
    _, after = quantize(net(body, outputs="float[a,b] y", k=RNG.normal(size=(10, 16))))
    found = placement(after)
    assert found["m"] == ["x"]
    assert found["c"] == ["q(m)", "q(w)"]
    assert found["a"] == ["d", "q(m)"]
    assert found["g"] == ["t"]
    assert found["y"] == ["q(f)", "q(k)"]


def test_an_add_whose_convolution_stays_in_float_gets_no_pair():
    body = f"c = {CONV.replace('<', '<group = 16, ')} (x, d) a = Add (c, x) y = Relu (a)"
    inserting, after = quantize(net(body, d=RNG.normal(size=(16, 1, 3, 3))))
    assert inserting.report.applied == []
    assert placement(after)["a"] == ["c", "x"]


def test_concat_shares_a_scale():
    body = f"c = {CONV} (x, w) r = Relu (c) k = Concat <axis = 1> (r, x) y = {CONV} (k, u)"
    _, after = quantize(net(body, u=RNG.normal(size=(16, 48, 3, 3))))
    scales = {n.input[1] for n in after.graph.node if n.op_type == "QuantizeLinear"}
    assert len(scales) == 1, "x, r and k on one"


def test_an_older_opset_is_refused():
    graph = ir.from_proto(net(f"y = {CONV} (x, w)"))
    with pytest.raises(WrongUse, match="opset 18, but float8_e4m3fn needs opset 19"):
        InsertQdq(FP8, {"x": (-1.0, 1.0)})(graph)


class Runtime:
    """A session of onnxruntime, through the tests' own helper."""

    def __init__(self, graph):
        self._model = onnx.load_model_from_string(graph)

    def run(self, names, feeds):
        values = run(self._model, x=feeds["x"])
        return [values[name] for name in names]


def test_rounded_weights_are_e4m3_already_and_cost_the_output_less():
    images = np.abs(X)  # a common mean, as behind a ReLU: errors of one sign then add up
    weight = RNG.normal(size=SHAPES["w"]).astype(np.float32)
    weight[0] *= 1e-3  # its scale is raised to 2**-14
    model = net(f"y = {CONV} (x, w)", w=weight)
    graph = ir.from_proto(model)
    moments = second_moments(
        model, layers_to_measure(graph, FP8), [{"x": images}], images=2, open_session=Runtime
    )
    rounding = RoundWeights(FP8, moments)
    rounding(graph)
    assert rounding.report.applied == ["y"]
    assert rounding.error["y"] < 0.8 * rounding.nearest_error["y"]
    _, nearest = quantize(model)
    _, ours = quantize(ir.to_proto(graph))
    np.testing.assert_allclose(array(ours, "w_scale"), array(nearest, "w_scale"), rtol=1e-6)
    kept = ir.to_proto(graph).graph.initializer
    (on_grid,) = [onnx.numpy_helper.to_array(each) for each in kept if each.name == "w"]
    scale = array(ours, "w_scale")[:, None, None, None]
    stored = array(ours, "w_quantized").astype(np.float64) * scale
    np.testing.assert_allclose(stored, on_grid, rtol=1e-6, err_msg="rounding again changes nothing")
    changed = array(ours, "w_quantized").astype(float) != array(nearest, "w_quantized").astype(
        float
    )
    assert 0.02 < changed.mean() < 0.7
