"""What SinkTransposes must not move a Transpose through, and the reason it gives."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from exporter.passes import Kept
from exporter.passes.sink_transposes import SinkTransposes
from tests.exporter.passes.graphs import NCHW, NHWC, ops, parse, sink, uniform


def kept(model, reason):
    before = sorted(ops(model))
    sinking, after = sink(model)
    assert sinking.report.applied == []
    assert sinking.report.kept == [Kept("n", reason)]
    assert sorted(ops(after)) == before


def test_other_operand_not_transposed():
    body = f"s = Shape(x)\n z = ConstantOfShape(s)\n t = {NHWC} (z)\n r = {NHWC} (x)\n"
    body += "u = Reshape(x, shape)\n [n] y = Add(r, u)"
    kept(parse(body, shape=np.array([2, 4, 5, 3])), "another input isn't transposed alike")


def test_operands_of_different_perms():
    body = f"""t = {NHWC} (x)
        u = Transpose <perm = [0, 3, 2, 1]> (x)
        [n] y = Add(t, u)"""
    model = parse(body, inputs="float[N,3,3,3] x")
    sinking = SinkTransposes()
    assert not sinking(ir.from_proto(model)).modified
    assert sinking.report.kept == [Kept("n", "another input isn't transposed alike")]


def test_constant_of_higher_rank():
    body = f"t = {NHWC} (x)\n [n] y = Add(t, c)"
    model = parse(body, outputs="float[a,b,c1,d,e] y", c=uniform(2, 1, 1, 1, 1))
    kept(model, "a constant raises the rank")


def test_reduction_that_would_reorder():
    body = f"t = {NHWC} (x)\n [n] y = ReduceMean <axes = [0], keepdims = 0> (t)"
    kept(parse(body, outputs="float[a,b,c] y"), "the axes left change their order")


def test_batch_normalization_over_nhwc():
    names = "gamma, beta, mean, var"
    arrays = {name: uniform(4) for name in names.split(", ")}
    body = f"t = {NHWC} (x)\n [n] y = BatchNormalization(t, {names})"
    kept(parse(body, **arrays), "channels aren't on axis 1 before the Transpose")


def test_softmax_before_opset_13():
    reason = "before opset 13 it flattens the axes from `axis` on"
    kept(parse(f"t = {NHWC} (x)\n [n] y = Softmax <axis = 3> (t)", opset=11), reason)


def test_flatten_of_an_image():
    body = f"t = {NHWC} (x)\n [n] y = Flatten(t)"
    reason = "the Transpose changes the order of the elements"
    kept(parse(body, outputs="float[a,b] y"), reason)


def test_slope_alone_transposed():
    body = f"t = {NHWC} (x)\n [n] y = PRelu(c, t)"
    kept(parse(body, c=-uniform(2, 4, 5, 3)), "only the slope is transposed")


def test_convolution_fixes_its_layout():
    body = f"t = {NCHW} (x)\n y = Conv(t, w)"
    model = parse(body, inputs="float[N,4,5,3] x", w=uniform(2, 3, 1, 1))
    sinking, after = sink(model, x=uniform(2, 4, 5, 3))
    assert (sinking.report.applied, sinking.report.kept) == ([], [])
    assert ops(after) == ["Transpose", "Conv"]


def test_no_transposes():
    sinking, after = sink(parse("y = Relu(x)"))
    assert sinking.report.applied == []
    assert ops(after) == ["Relu"]
