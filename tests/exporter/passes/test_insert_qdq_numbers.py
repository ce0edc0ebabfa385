"""The integers that InsertQdq writes, against quantisation worked out in numpy."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import numpy_helper

from calibration.formats import FORMATS
from exporter.passes import schemes
from exporter.passes._quantize import activation_parameters, quantize_weight, weight_scales
from exporter.passes.insert_qdq import InsertQdq
from tests.exporter.passes.qdq_graphs import CONV, X, constant, net, quantize, ranges_of, run

TENSORRT, CPU = schemes.lookup("tensorrt"), schemes.lookup("cpu")
finite = st.floats(-(2.0**100), 2.0**100, width=32)  # 1.3e30; denormals too


def fake_quantized(x, low, high, scheme):
    """A reference of its own: float64, from the range."""
    low, high = min(low, 0), max(high, 0)
    if scheme.symmetric:
        scale = np.float32(max(-low, high) / 127)
        return np.clip(np.rint(x / scale), -128, 127) * float(scale)
    scale = np.float32((high - low) / 255)
    zero = np.rint(-low / float(scale))
    return (np.clip(np.rint(x / scale) + zero, 0, 255) - zero) * float(scale)


def fake_quantized_rows(w):
    scale = np.abs(w).max(axis=(1, 2, 3), keepdims=True) / 127
    return np.rint(w / scale) * scale


@pytest.mark.parametrize("scheme", [TENSORRT, CPU], ids=lambda s: s.name)
def test_convolution_of_quantised_numbers(scheme):
    model = net("c = Conv (x, p, b) y = Relu (c)")
    ranges = ranges_of(model, scheme)
    _, after = quantize(model, scheme)
    weight, bias = constant(model, "p"), constant(model, "b")
    x = fake_quantized(X, *ranges["x"], scheme)
    # A 1x1 convolution is a matrix product of channels.
    product = np.einsum("nihw,oi->nohw", x, fake_quantized_rows(weight)[:, :, 0, 0])
    expected = np.maximum(product + bias[:, None, None], 0)
    got = run(after)["y"]
    if scheme.outputs:
        step = ranges["y"][1] / 255
        expected = fake_quantized(expected, *ranges["y"], scheme)
    # float32 sums of 4 products, and the int32 bias's rounding of 1e-5; where that tips a value
    # over the middle between two steps, the output pair makes it one step.
    tolerance = step * 1.001 if scheme.outputs else 1e-4
    np.testing.assert_allclose(got, expected, rtol=0, atol=tolerance)
    assert np.mean(np.abs(got - expected) > 1e-4) < 0.01


@pytest.mark.parametrize("scheme", [TENSORRT, CPU], ids=lambda s: s.name)
def test_error_is_within_what_the_scales_allow(scheme):
    model = net(f"c = {CONV} (x, w1, b) y = Relu (c)")
    _, after = quantize(model, scheme)
    weight, ranges = constant(model, "w1"), ranges_of(model, scheme)
    low, high = ranges["x"]
    step = max(-low, high) / 127 if scheme.symmetric else (high - low) / 255
    # Each of 36 products is off by half an input step times the weight, and by half a weight
    # step times the quantised input.
    rows = np.abs(weight).max(axis=(1, 2, 3)) / 127
    sums = np.abs(weight).sum(axis=(1, 2, 3))
    bound = step / 2 * sums + rows / 2 * 36 * (max(-low, high) + step / 2)
    bound = bound + (ranges["y"][1] / 255 if scheme.outputs else 0)
    error = np.abs(run(after)["y"] - run(model)["y"]).max(axis=(0, 2, 3))
    assert (error <= bound + 1e-4).all()
    assert (error > 0).all()


@settings(deadline=None, max_examples=200)
@given(bounds=st.tuples(finite, finite), scheme=st.sampled_from([TENSORRT, CPU]))
def test_activation_scale_is_positive_and_the_round_trip_within_half_of_it(bounds, scheme):
    low, high = sorted(bounds)
    found = activation_parameters(low, high, scheme)
    scale, zero = float(found.scale), int(found.zero_point)
    assert found.scale.dtype == np.float32
    assert found.zero_point.dtype == scheme.dtype
    assert np.isfinite(found.scale)
    assert scale >= np.finfo(np.float32).tiny
    info = np.iinfo(scheme.dtype)
    values = np.linspace(min(low, 0), max(high, 0), 101)
    if not scheme.symmetric:  # rounding the zero point moves the range by up to half a step
        values = np.clip(values, (info.min - zero) * scale, (info.max - zero) * scale)
    back = (np.clip(np.rint(values / scale) + zero, info.min, info.max) - zero) * scale
    assert (np.abs(back - values) <= scale * (0.5 + 1e-4)).all()


@settings(deadline=None, max_examples=100)
@given(
    rows=st.lists(st.lists(finite, min_size=3, max_size=3), min_size=1, max_size=4),
    largest=st.sampled_from([64, 127]),
)
def test_weight_scales_are_positive_and_the_round_trip_within_half_of_them(rows, largest):
    weight = np.asarray(rows, np.float32)
    number = replace(FORMATS["int8"], largest=largest)
    scales = weight_scales(weight, 0, number)
    assert scales.dtype == np.float32
    assert (np.isfinite(scales) & (scales > 0)).all()
    integers = quantize_weight(weight, scales, 0, number, np.dtype(np.int8))
    assert np.abs(integers.astype(int)).max() <= largest
    error = np.abs(integers * scales[:, None].astype(np.float64) - weight)
    assert (error <= scales[:, None] * (0.5 + 1e-4)).all()


def test_channel_of_zeros_and_range_of_nothing():
    weight = np.zeros((4, 4, 3, 3))
    weight[1] = 0.5
    _, after = quantize(net(f"y = {CONV} (x, w)", w=weight), TENSORRT, x=np.zeros_like(X))
    np.testing.assert_array_equal(constant(after, "w_scale"), np.float32([1, 0.5 / 127, 1, 1]))
    assert constant(after, "x_scale") == 1
    assert not run(after, x=np.zeros_like(X))["y"].any()


@pytest.mark.parametrize("size", [0, 1e-30, 1e-12, 1e-3])
def test_bias_survives_tiny_weights(size):
    """In int32 units of input_scale * weight_scale a bias of 0.5 would overflow or vanish."""
    model = net("c = Conv (x, w, bias) y = Relu (c)", w=np.full((4, 4, 1, 1), size), bias=[0.5] * 4)
    _, after = quantize(model, CPU)
    stored = constant(after, "bias_quantized")
    assert stored.dtype == np.int32
    assert (np.abs(stored.astype(np.int64)) <= 2**30).all()
    np.testing.assert_allclose(stored * constant(after, "bias_scale"), 0.5, rtol=1e-4)
    products = constant(after, "w_scale") * constant(after, "x_scale")
    np.testing.assert_array_equal(constant(after, "bias_scale"), products)


def test_unsigned_zero_point_is_0_after_a_relu_whatever_calibration_says():
    graph = ir.from_proto(net(f"c = {CONV} (x, w1) r = Relu (c) y = {CONV} (r, w2)"))
    InsertQdq(CPU, {"x": (-1, 3), "r": (-2, 5.1), "y": (-1, 1)})(graph)
    after = ir.to_proto(graph)
    assert constant(after, "r_zero_point") == 0
    assert constant(after, "r_scale") == np.float32(5.1 / 255)
    assert constant(after, "x_zero_point") == 64, "-1 is a quarter from the bottom"


def test_relu6_is_what_the_range_does_by_itself():
    body = f"c = {CONV} (x, w1) r = Clip (c, zero, six) y = {CONV} (r, w2)"
    graph = ir.from_proto(net(body, zero=0, six=6))
    InsertQdq(CPU, {"x": (-1, 1), "r": (0, 6.5), "y": (-1, 1)})(graph)
    scale = float(constant(ir.to_proto(graph), "r_scale"))
    assert 6 - 1e-5 < scale * 255 <= 6


def test_reduced_range_fits_saturating_sums_of_two():
    _, after = quantize(net(f"y = {CONV} (x, w1)"), schemes.lookup("cpu", reduce_range=True))
    assert np.abs(constant(after, "w1_quantized").astype(int)).max() == 64
    assert 2 * 255 * 64 <= np.iinfo(np.int16).max < 2 * 255 * 65


def test_gemm_with_beta_and_transposed_weight():
    body = """m = GlobalAveragePool (x) f = Flatten (m)
        y = Gemm <transB = 1, beta = 0.5> (f, wt, bias)"""
    weight, bias = np.random.default_rng(1).normal(size=(6, 4)), np.ones(6)
    model = net(body, outputs="float[a,b] y", wt=weight, bias=bias)
    _, after = quantize(model, CPU)
    assert constant(after, "wt_scale").shape == (6,)
    np.testing.assert_allclose(run(after)["y"], run(model)["y"], atol=0.05)
    (gemm,) = [node for node in after.graph.node if node.op_type == "Gemm"]
    assert "beta" not in {attribute.name for attribute in gemm.attribute}
    stored = constant(after, "bias_quantized") * constant(after, "bias_scale")
    np.testing.assert_allclose(stored, 0.5, atol=1e-3)


def test_reference_evaluator_agrees_with_onnxruntime():
    _, after = quantize(net(f"c = {CONV} (x, w1, b) y = Relu (c)"), TENSORRT)
    after.opset_import[0].version = 19  # means the same; onnx 1.23's reference has no older DQ
    (expected,) = onnx.reference.ReferenceEvaluator(after).run(None, {"x": X})
    np.testing.assert_allclose(run(after)["y"], expected, rtol=0, atol=1e-4)
    assert all(numpy_helper.to_array(i).dtype != np.float64 for i in after.graph.initializer)
