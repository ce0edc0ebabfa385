"""FoldShapes against onnx's reference evaluator: the same numbers from fewer nodes."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx.reference import ReferenceEvaluator

from exporter.passes.fold_shapes import FoldShapes
from tests.exporter.passes.graphs import ops, parse, uniform

ONE = {"zero": np.array([0]), "one": np.array([1])}
SIZE = "s = Shape (x) n = Slice (s, zero, one, zero)"


def fold(model, x=None):
    graph = ir.from_proto(model)
    folding = FoldShapes()
    assert folding(graph).modified == bool(folding.report.applied)
    after = ir.to_proto(graph)
    onnx.checker.check_model(after, full_check=True)
    feeds = {"x": uniform(2, 3, 4, 5) if x is None else x}
    (expected,) = ReferenceEvaluator(model).run(None, feeds)
    (got,) = ReferenceEvaluator(after).run(None, feeds)
    np.testing.assert_array_equal(got, expected, strict=True)
    assert not FoldShapes()(graph).modified, "a second call finds nothing to do"
    return folding.report, after


def test_an_open_batch_is_left_to_reshape():
    body = f"{SIZE} target = Concat <axis = 0> (n, rest) y = Reshape (x, target)"
    report, after = fold(parse(body, outputs="float[N,a] y", **ONE, rest=np.array([60])))
    assert report.applied == ["y"]
    assert ops(after) == ["Reshape"]
    (target,) = [onnx.numpy_helper.to_array(one) for one in after.graph.initializer]
    assert target.tolist() == [-1, 60]


def test_a_chain_is_folded_to_its_end():
    """The second shape is known only once the first is constant."""
    body = f"""{SIZE} first = Concat <axis = 0> (n, rest) r = Reshape (x, first) e = Relu (r)
        s2 = Shape (e) n2 = Slice (s2, zero, one, zero) wide = Cast <to = 6> (n2)
        back = Cast <to = 7> (wide) second = Concat <axis = 0> (back, ten, six)
        y = Reshape (e, second)"""
    arrays = {**ONE, "rest": np.array([60]), "ten": np.array([10]), "six": np.array([6])}
    report, after = fold(parse(body, outputs="float[N,a,b] y", **arrays))
    assert report.applied == ["r", "y"]
    assert ops(after) == ["Reshape", "Relu", "Reshape"]


def test_a_shape_that_something_else_reads_stays_for_it():
    body = f"""{SIZE} target = Concat <axis = 0> (n, rest) r = Reshape (x, target)
        f = Cast <to = 1> (target) m = ReduceMax <keepdims = 0> (f) y = Add (r, m)"""
    _, after = fold(parse(body, outputs="float[N,a] y", **ONE, rest=np.array([60])))
    assert "Concat" in ops(after)


def test_arithmetic_on_known_sizes_shows_that_a_crop_and_a_pad_do_nothing():
    """As tf2onnx surrounds a Conv1DTranspose: it crops and pads by the size that it should have."""
    body = """s = Shape (x) h = Slice (s, two, three, zero) over = Sub (h, four)
        some = Max (over, zero) half = Div (some, two)
        end = Add (half, four) c = Slice (x, half, end, two)
        less = Neg (over) more = Max (less, zero)
        pads = Concat <axis = 0> (zero, zero, more, zero, zero, zero, more, zero)
        p = Pad (c, pads) y = Relu (p)"""
    numbers = {"zero": 0, "two": 2, "three": 3, "four": 4}
    arrays = {name: np.array([value]) for name, value in numbers.items()}
    report, after = fold(parse(body, outputs="float[N,3,a,5] y", **arrays))
    assert report.applied == ["c", "p"]
    assert ops(after) == ["Relu"]


def test_a_size_that_is_open_stays_computed():
    body = "s = Shape (x) n = Slice (s, zero, one, zero) f = Cast <to = 1> (n) y = Mul (x, f)"
    report, after = fold(parse(body, **ONE))
    assert report.applied == []
    assert "Shape" in ops(after)


_EMPTY = "a size is 0 or inferred, besides one that is open"


@pytest.mark.parametrize(
    ("shape", "x"), [("float[N,M,4,5]", (2, 3, 4, 5)), ("float[N,0,4,5]", (2, 0, 4, 5))]
)
def test_two_open_sizes_or_an_empty_one_stay(shape, x):
    body = "s = Shape (x) i = Identity (s) y = Reshape <allowzero = 1> (x, i)"
    model = parse(body, inputs=f"{shape} x", outputs=f"{shape} y")
    report, after = fold(model, uniform(*x))
    assert report.applied == []
    assert [kept.node for kept in report.kept] == ["y"]
    assert report.kept[0].reason in ("several sizes are open", _EMPTY)
    assert ops(after) == ["Shape", "Identity", "Reshape"]


def test_a_graph_without_computed_shapes_is_not_even_annotated():
    model = parse("r = Relu (x) y = Reshape (r, target)", target=np.array([-1, 3, 4, 5]))
    del model.graph.value_info[:]
    graph = ir.from_proto(model)
    FoldShapes()(graph)
    assert (
        ir.to_proto(graph).SerializeToString()
        == ir.to_proto(ir.from_proto(model)).SerializeToString()
    )
