"""RepeatToResize against onnx's reference evaluator and onnxruntime: to the bit."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx.reference import ReferenceEvaluator

from exporter.passes.repeat_to_resize import RepeatToResize
from tests.exporter.passes.graphs import ops, parse, uniform


def repeat(axis, by, shape, *, first="x", last="y", suffix=""):
    """ONNX text and arrays that repeat each element of an axis, as tf2onnx writes it."""
    tiles = [1] * (len(shape) + 1)
    tiles[axis + 1] = by
    target = [size * by if index == axis else size for index, size in enumerate(shape)]
    body = f"""u{suffix} = Unsqueeze ({first}, axis{suffix})
        t{suffix} = Tile (u{suffix}, by{suffix})
        {last} = Reshape (t{suffix}, shape{suffix})"""
    arrays = {
        f"axis{suffix}": np.array([axis + 1]),
        f"by{suffix}": np.array(tiles),
        f"shape{suffix}": np.array([-1, *target[1:]]),
    }
    return body, arrays, target


def rewrite(model, x):
    graph = ir.from_proto(model)
    rewriting = RepeatToResize()
    assert rewriting(graph).modified == bool(rewriting.report.applied)
    after = ir.to_proto(graph)
    onnx.checker.check_model(after, full_check=True)
    (expected,) = ReferenceEvaluator(model).run(None, {"x": x})
    session = onnxruntime.InferenceSession(
        after.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    for got in (*ReferenceEvaluator(after).run(None, {"x": x}), *session.run(None, {"x": x})):
        np.testing.assert_array_equal(got, expected, strict=True)
    assert [o.name for o in after.graph.output] == ["y"]
    assert not RepeatToResize()(graph).modified, "a second call finds nothing to do"
    return rewriting.report, after


@settings(max_examples=40, deadline=None)
@given(st.sampled_from([1, 2, 3]), st.integers(2, 7), st.integers(1, 9))
def test_one_axis_repeated(axis, by, size):
    """Sizes and factors at which i / by is no exact float, too."""
    shape = [2, 3, 4, 5]
    shape[axis] = size
    body, arrays, target = repeat(axis, by, shape)
    inputs = f"float[N,{','.join(map(str, shape[1:]))}] x"
    outputs = f"float[N,{','.join(map(str, target[1:]))}] y"
    report, after = rewrite(parse(body, inputs=inputs, outputs=outputs, **arrays), uniform(*shape))
    assert report.applied == ["y"]
    assert ops(after) == ["Resize"]


def test_two_axes_become_one_resize():
    """As Keras 3 makes UpSampling2D((2, 3)) on NHWC."""
    first, one, target = repeat(1, 2, [2, 3, 4, 5], last="m", suffix="0")
    second, two, target = repeat(2, 3, target, first="m", suffix="1")
    outputs = f"float[N,{','.join(map(str, target[1:]))}] y"
    model = parse(first + " " + second, outputs=outputs, **one, **two)
    report, after = rewrite(model, uniform(2, 3, 4, 5))
    assert ops(after) == ["Resize"]
    scales = onnx.numpy_helper.to_array(after.graph.initializer[0])
    assert scales.tolist() == [1, 2, 3, 1]
    assert report.applied == ["m", "y"]


def test_a_value_between_that_is_used_elsewhere_keeps_the_two_apart():
    first, one, target = repeat(1, 2, [2, 3, 4, 5], last="m", suffix="0")
    second, two, target = repeat(2, 3, target, first="m", last="r", suffix="1")
    body = f"{first} {second} k = ReduceMax (m) y = Add (r, k)"
    outputs = f"float[N,{','.join(map(str, target[1:]))}] y"
    _, after = rewrite(parse(body, outputs=outputs, **one, **two), uniform(2, 3, 4, 5))
    assert ops(after) == ["Resize", "Resize", "ReduceMax", "Add"]


@pytest.mark.parametrize("change", ["tiles twice", "tiles before", "merges elsewhere", "is read"])
def test_what_is_no_repetition_stays(change):
    body, arrays, target = repeat(2, 2, [2, 3, 4, 5])
    if change == "tiles twice":
        arrays["by"], target = np.array([1, 2, 1, 2, 1]), [2, 6, 8, 5]
    elif change == "tiles before":  # [a, b] becomes a, b, a, b in place of a, a, b, b
        arrays["axis"], arrays["by"] = np.array([2]), np.array([1, 1, 2, 1, 1])
    elif change == "merges elsewhere":
        target = [2, 3, 4, 10]
    else:
        body = body.replace("y = Reshape", "r = Reshape")
        body += " k = ReduceMax <keepdims = 0> (t) y = Add (r, k)"
    arrays["shape"] = np.array([-1, *target[1:]])
    outputs = f"float[N,{','.join(map(str, target[1:]))}] y"
    report, after = rewrite(parse(body, outputs=outputs, **arrays), uniform(2, 3, 4, 5))
    assert report.applied == []
    assert "Tile" in ops(after)
