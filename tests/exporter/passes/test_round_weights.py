"""RoundWeights: what it gives InsertQdq, and what that costs the layer's output."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from calibration.gram import second_moments
from exporter.passes import schemes
from exporter.passes.insert_qdq import InsertQdq
from exporter.passes.round_weights import RoundWeights, layers_to_measure
from tests.exporter.passes.qdq_graphs import CONV, X, constant, net, ranges_of, run

TENSORRT = schemes.lookup("tensorrt")
CPU = schemes.lookup("cpu", reduce_range=True)
GROUPED = CONV.replace("<", "<group = 2, ")
IMAGES = np.abs(X)  # a common mean, as behind a ReLU: errors of one sign then add up


class Runtime:
    """A session of onnxruntime, through the tests' own helper."""

    def __init__(self, graph):
        self._model = onnx.load_model_from_string(graph)

    def run(self, names, feeds):
        values = run(self._model, x=feeds["x"])
        return [values[name] for name in names]


def rounded(model, scheme):
    graph = ir.from_proto(model)
    layers = layers_to_measure(graph, scheme)
    moments = second_moments(model, layers, [{"x": IMAGES}], images=2, open_session=Runtime)
    rounding = RoundWeights(scheme, moments)
    result = rounding(graph)
    assert result.modified == bool(rounding.report.applied)
    after = ir.to_proto(graph)
    onnx.checker.check_model(after, full_check=True)
    return rounding, after


def inserted(model, scheme, ranges):
    graph = ir.from_proto(model)
    InsertQdq(scheme, ranges)(graph)
    return ir.to_proto(graph)


@pytest.mark.parametrize("scheme", [TENSORRT, CPU], ids=lambda s: s.name)
@pytest.mark.parametrize(("conv", "weight"), [(CONV, "w1"), (GROUPED, "g")])
def test_integers_are_neighbours_and_the_scale_stays(scheme, conv, weight):
    model = net(f"c = {conv} (x, {weight}, b) y = Relu (c)")
    ranges = ranges_of(model, scheme, x=IMAGES)
    rounding, after = rounded(model, scheme)
    assert rounding.report.applied == ["c"]
    nearest, ours = inserted(model, scheme, ranges), inserted(after, scheme, ranges)
    scale = constant(nearest, f"{weight}_scale")
    np.testing.assert_allclose(constant(ours, f"{weight}_scale"), scale, rtol=1e-6)
    integers = constant(ours, f"{weight}_quantized").astype(np.float64)
    exact = constant(model, weight) / scale.astype(np.float64)[:, None, None, None]
    assert (np.abs(integers - exact) < 1 + 1e-5).all()
    assert np.abs(integers).max() == scheme.weights.largest
    changed = integers != constant(nearest, f"{weight}_quantized")
    assert 0.02 < changed.mean() < 0.7


@pytest.mark.parametrize("scheme", [TENSORRT, CPU], ids=lambda s: s.name)
@pytest.mark.parametrize(
    "body",
    [
        f"y = {CONV} (x, w1)",
        f"y = {GROUPED} (x, g, b)",
        f"y = {CONV.replace('<', '<group = 4, ')} (x, d)",
        "m = GlobalMaxPool (x) f = Flatten (m) y = Gemm (f, dense, db)",
        "m = GlobalMaxPool (x) f = Flatten (m) y = Gemm <transB = 1> (f, dense6)",
    ],
)
def test_the_layers_output_gains_what_the_moments_say(body, scheme):
    """Only weights are rounded here, so the error is theirs alone."""
    dense = {"dense6": np.random.default_rng(0).normal(size=(6, 4))} if "dense6" in body else {}
    outputs = "float[a,b] y" if "Gemm" in body else "float[a,b,c,d] y"
    model = net(body, outputs=outputs, **dense)
    rounding, after = rounded(model, scheme)
    exact = run(model, x=IMAGES)["y"].astype(np.float64)
    graph = ir.from_proto(model)
    weight = next(i.name for i in model.graph.initializer if i.name not in ("b", "db"))
    axis = 1 if weight == "dense" else 0
    array = constant(model, weight).astype(np.float64)
    others = tuple(i for i in range(array.ndim) if i != axis)
    scale = np.abs(array).max(axis=others, keepdims=True) / scheme.weights.largest
    graph.graph.initializers[weight].const_value = ir.tensor(
        (np.rint(array / scale) * scale).astype(np.float32)
    )
    errors = [
        (
            (
                (run(each, x=IMAGES)["y"] - exact)
                / np.moveaxis(scale, axis, 1).reshape(1, -1, *[1] * (exact.ndim - 2))
            )
            ** 2
        )
        for each in (ir.to_proto(graph), after)
    ]
    read = IMAGES.max(axis=(2, 3)) if "Gemm" in body else IMAGES
    powers = (read.reshape(len(read), -1).astype(np.float64) ** 2).mean(axis=1)
    # All positions of the 8x8 maps are sampled, so the sums agree but for float32's rounding.
    nearest, ours = (
        np.mean(error.sum(1).reshape(len(read), -1).mean(1) / powers) for error in errors
    )
    assert ours <= nearest * (1 + 1e-4)
    assert rounding.nearest_error["y"] == pytest.approx(nearest, rel=1e-3)
    assert rounding.error["y"] == pytest.approx(ours, rel=1e-3)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (f"c = {CONV} (x, w1) y = {CONV} (c, w1)", "weights shared"),
        ("y = ConvTranspose (x, t)", "its output isn't a sum over windows"),
        ('y = Conv <auto_pad = "SAME_UPPER"> (x, w1)', "auto_pad"),
    ],
)
def test_refusals(body, reason):
    rounding, after = rounded_without_images(net(body))
    assert rounding.report.applied == []
    assert {kept.reason for kept in rounding.report.kept} == {reason}
    assert after.graph.initializer == net(body).graph.initializer


def rounded_without_images(model):
    graph = ir.from_proto(model)
    assert layers_to_measure(graph, TENSORRT) == {}
    rounding = RoundWeights(TENSORRT, {})
    assert not rounding(graph).modified
    return rounding, ir.to_proto(graph)
