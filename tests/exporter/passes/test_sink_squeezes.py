"""SinkSqueezes against onnx's reference evaluator: moving axes must not change a number."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx.reference import ReferenceEvaluator

from exporter.passes import Kept
from exporter.passes.sink_squeezes import SinkSqueezes
from tests.exporter.passes.graphs import ops, parse, uniform

SQUEEZE, BACK = "s = Squeeze (x, one)", "u = Unsqueeze (r, one) y = Abs (u)"
X = uniform(2, 1, 4, 5)
ARRAYS = {"one": np.array([1])}
# Element by element the arithmetic is the same. A mean over one more axis of size 1, too.
EXACT = {"rtol": 0, "atol": 1e-6}


def sink(body, *, x=X, inputs="float[N,1,4,5] x", outputs="float[N,a,b,c] y", **arrays):
    model = parse(body, opset=18, inputs=inputs, outputs=outputs, **ARRAYS, **arrays)
    graph = ir.from_proto(model)
    sinking = SinkSqueezes()
    assert sinking(graph).modified == bool(sinking.report.applied)
    after = ir.to_proto(graph)
    onnx.checker.check_model(after, full_check=True)
    assert [o.name for o in after.graph.output] == [o.name for o in model.graph.output]
    expected = ReferenceEvaluator(model).run(None, {"x": x})
    got = ReferenceEvaluator(after).run(None, {"x": x})
    for one, other in zip(expected, got, strict=True):
        np.testing.assert_allclose(other, one, **EXACT, strict=True)
    assert not SinkSqueezes()(graph).modified, "a second call finds nothing to do"
    return sinking.report, after


STEPS = {
    "Relu ({})": {},
    "Clip ({}, low, high)": {"low": np.float32(0.7), "high": np.float32(1.5)},
    "Add ({}, bias)": {"bias": uniform(5, seed=1)},
    "Mul (gain, {})": {"gain": uniform(4, 1, seed=2)},
    "Sub ({}, whole)": {"whole": uniform(2, 4, 5, seed=3)},
    "Div ({}, scalar)": {"scalar": np.float32(3)},
    "Softmax <axis = -1> ({})": {},
    "Softmax <axis = 1> ({})": {},
    "Concat <axis = 1> ({0}, {0})": {},
    "ReduceMax <keepdims = 1> ({}, last)": {"last": np.array([-1])},
}


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from(list(STEPS)), min_size=1, max_size=4))
def test_any_chain_between_a_squeeze_and_an_unsqueeze(steps):
    lines, value, arrays = [SQUEEZE], "s", {}
    wide = 1  # a Concat doubles axis 1, where constants of that size no longer fit
    for number, step in enumerate(steps):
        if wide > 1 and ("gain" in step or "whole" in step):
            continue
        wide *= 2 if "Concat" in step else 1
        lines.append(f"v{number} = {step.format(value)}")
        value, arrays = f"v{number}", arrays | STEPS[step]
    lines.append(f"r = Identity ({value}) {BACK}")
    report, after = sink(" ".join(lines), **arrays)
    assert not {"Squeeze", "Unsqueeze"} & set(ops(after))
    assert report.kept == []


@pytest.mark.parametrize("keepdims", [0, 1])
@pytest.mark.parametrize("axis", [1, 2, -1])
def test_a_mean_takes_the_axis_along(keepdims, axis):
    """As of GlobalAveragePooling1D; the Unsqueeze beside it makes the pair."""
    body = f"{SQUEEZE} y = ReduceMean <keepdims = {keepdims}> (s, axes) u = Unsqueeze (x, one)"
    outputs = "float[N,a,b] y" if keepdims else "float[N,a] y"
    report, after = sink(body, outputs=outputs, axes=np.array([axis]))
    assert report.applied == ["y"]
    assert ("Squeeze" in ops(after)) == bool(keepdims)


def test_padding_in_time():
    body = f"{SQUEEZE} r = Pad (s, pads, fill) {BACK}"
    pads = np.array([0, 2, 0, 0, 1, 0])
    report, after = sink(body, pads=pads, fill=np.float32(0.5))
    assert report.applied == ["r", "u"]
    assert ops(after) == ["Pad", "Abs"]


def test_two_branches_that_are_squeezed_alike():
    body = f"{SQUEEZE} a = Relu (x) b = Squeeze (a, one) r = Add (s, b) {BACK}"
    _, after = sink(body)
    assert ops(after) == ["Relu", "Add", "Abs"]


@pytest.mark.parametrize(
    ("step", "why"),
    [
        ("Add (s, other)", "another input isn't squeezed alike"),
        ("Add (s, raises)", "a constant raises the rank"),
        ("Concat <axis = 1> (s, other)", "another input isn't squeezed alike"),
    ],
)
def test_what_can_not_move_says_why(step, why):
    body = f"t = Transpose (x) o = ReduceMax <keepdims = 0> (x, one) other = Relu (o) r = {step}"
    back = BACK if "raises" not in step else "u = Unsqueeze (r, one) y = Squeeze (r, zero)"
    outputs = "float[N,a,b,c] y" if "raises" not in step else "float[a,b,c] y"
    raises = np.ones((1, 2, 4, 5), np.float32)
    arrays = {"raises": raises, "zero": np.array([0])} if "raises" in step else {}
    report, _ = sink(f"{SQUEEZE} {body} {back}", outputs=outputs, **arrays)
    assert Kept("r", why) in report.kept


def test_an_unsqueeze_elsewhere_does_not_meet_it():
    body = f"{SQUEEZE} r = Relu (s) u = Unsqueeze (r, two) y = Abs (u)"
    report, after = sink(body, two=np.array([2]))
    assert report.kept == [Kept("u", "other axes are added than the Squeeze removed")]
    assert ops(after) == ["Relu", "Squeeze", "Unsqueeze", "Abs"]


def test_values_that_are_returned_keep_their_names():
    body = f"{SQUEEZE} r = Relu (s) t = Tanh (r) y = Unsqueeze (t, one)"
    report, after = sink(body, outputs="float[N,b,c] r, float[N,a,b,c] y")
    assert report.applied == ["r", "t"], "what the Unsqueeze gives is returned"
    assert "Unsqueeze" in ops(after)


def test_a_graph_without_a_pair_is_not_even_annotated():
    model = parse(
        f"{SQUEEZE} y = Relu (s)", outputs="float[N,b,c] y", inputs="float[N,1,4,5] x", **ARRAYS
    )
    del model.graph.value_info[:]
    graph = ir.from_proto(model)
    assert not SinkSqueezes()(graph).modified
    assert all(value.shape is None for node in list(graph.graph)[:-1] for value in node.outputs)
