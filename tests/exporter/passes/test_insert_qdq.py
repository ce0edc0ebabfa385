"""Where InsertQdq puts the pairs, node by node, for the TensorRT scheme."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from exporter.errors import WrongUse
from exporter.passes import Kept, schemes
from exporter.passes.insert_qdq import InsertQdq, tensors_to_calibrate
from exporter.passes.lint_qdq import lint_qdq
from exporter.passes.placement import place
from tests.exporter.passes.qdq_graphs import CONV, constant, net, placement, quantize, ranges_of

TENSORRT = schemes.lookup("tensorrt")


def insert(body, scheme=TENSORRT, *, keep=(), **arguments):
    inserting, after = quantize(net(body, **arguments), scheme, keep=keep)
    assert lint_qdq(ir.from_proto(after), scheme) == []
    return inserting, after, placement(after)


@pytest.mark.parametrize("activation", ["Relu (c)", "Clip (c, zero, six)", "Sigmoid (c)"])
def test_chain_has_pairs_behind_the_activations_only(activation):
    body = f"c = {CONV} (x, w1, b) r = {activation} y = {CONV} (r, w2)"
    limits = {"zero": 0, "six": 6} if "Clip" in activation else {}
    inserting, _, reads = insert(body, **limits)
    assert reads["c"] == ["q(x)", "q(w1)", "b"], "the bias stays float"
    assert reads["r"][0] == "c"
    assert reads["y"] == ["q(r)", "q(w2)"]
    assert inserting.report.applied == ["c", "y"]
    assert inserting.report.kept == []


IDENTITY = f"""c0 = {CONV} (x, w1) r0 = Relu (c0)
    c1 = {CONV} (r0, w2) r1 = Relu (c1) c2 = {CONV} (r1, w3)
    s = Add (c2, r0) r2 = Relu (s) y = {CONV} (r2, w4)"""


@pytest.mark.parametrize("order", ["c2, r0", "r0, c2"])
def test_identity_shortcut_shares_the_pair_of_the_block(order):
    _, after, reads = insert(IDENTITY.replace("c2, r0", order))
    assert sorted(reads["s"]) == ["c2", "q(r0)"]
    assert reads["c1"][0] == "q(r0)"
    assert reads["r2"] == ["s"]
    assert reads["y"][0] == "q(r2)"
    quantized = [node.input[0] for node in after.graph.node if node.op_type == "QuantizeLinear"]
    assert quantized == ["x", "r0", "r1", "r2"]


@pytest.mark.parametrize("order", ["c2, c3", "c3, c2"])
def test_projection_shortcut_is_the_shorter_branch(order):
    body = f"""r0 = Relu (x) c3 = Conv (r0, p)
        c1 = {CONV} (r0, w1) r1 = Relu (c1) c2 = {CONV} (r1, w2)
        s = Add ({order}) y = Relu (s)"""
    _, _, reads = insert(body)
    assert sorted(reads["s"]) == ["c2", "q(c3)"]
    assert reads["y"] == ["s"]


def test_grouped_and_depthwise_convolutions():
    grouped = CONV.replace("<", "<group = 2, ")
    depthwise = CONV.replace("<", "<group = 4, ")
    body = f"c1 = {grouped} (x, g, b) r = Relu (c1) y = {depthwise} (r, d)"
    _, after, reads = insert(body)
    assert reads == {"c1": ["q(x)", "q(g)", "b"], "r": ["c1"], "y": ["q(r)", "q(d)"]}
    assert constant(after, "g_scale").shape == constant(after, "d_scale").shape == (4,)


def test_transposed_convolution_has_its_channels_on_axis_1():
    _, after, reads = insert("y = ConvTranspose (x, t)")
    assert reads["y"] == ["q(x)", "q(t)"]
    (axis,) = [n.attribute[0].i for n in after.graph.node if n.output[0] == "t_dequantized"]
    assert axis == 1


def test_grouped_transposed_convolution_stays():
    body = "y = ConvTranspose <group = 2> (x, w)"
    inserting, _, _ = insert(body, w=[[[[1.0]], [[2.0]]]] * 4)
    reason = "a grouped ConvTranspose has no axis of output channels"
    assert inserting.report.kept == [Kept("y", reason)]


def test_concat_shares_the_joint_range():
    body = f"""c1 = {CONV} (x, w1) r1 = Relu (c1) c2 = {CONV} (x, w2) r2 = Relu (c2)
        j = Concat <axis = 0> (r1, r2) y = {CONV} (j, w3)"""
    model = net(body)
    assert tensors_to_calibrate(ir.from_proto(model), TENSORRT) == ["x", "r1", "r2"]
    _, after, reads = insert(body)
    assert reads["j"] == ["q(r1)", "q(r2)"]
    assert reads["y"][0] == "q(j)"
    ranges = ranges_of(model, TENSORRT)
    high = max(ranges["r1"][1], ranges["r2"][1])
    assert constant(after, "r1_scale") == pytest.approx(high / 127, rel=1e-7)
    scales = {n.input[1] for n in after.graph.node if n.op_type == "QuantizeLinear"}
    assert scales == {"x_scale", "r1_scale"}


def test_max_pool_is_between_pairs_of_one_scale():
    body = f"r = Relu (x) m = MaxPool <kernel_shape = [2, 2]> (r) y = {CONV} (m, w1)"
    _, after, reads = insert(body)
    assert reads == {"r": ["x"], "m": ["q(r)"], "y": ["q(m)", "q(w1)"]}
    scales = {n.input[1] for n in after.graph.node if n.op_type == "QuantizeLinear"}
    assert scales == {"r_scale"}


@pytest.mark.parametrize(("mode", "pairs"), [("nearest", 1), ("linear", 2)])
def test_resize_shares_its_scale_only_if_it_repeats_values(mode, pairs):
    resize = f'Resize <mode = "{mode}", coordinate_transformation_mode = "asymmetric">'
    model = net(f"r = Relu (x) m = {resize} (r, , by) y = {CONV} (m, w1)")
    by = onnx.numpy_helper.from_array(np.array([1, 1, 2, 2], np.float32), "by")
    model.graph.initializer.append(by)
    for name in ("tensorrt", "cpu"):
        graph = ir.from_proto(model)
        found = place(graph, schemes.lookup(name))
        (at, *others) = [group for value, group in found.groups.items() if value.name == "m"]
        assert not others
        assert [value.name for value in at] == (["r", "m"] if pairs == 1 else ["m"])
        (m,) = [value for value in found.values if value.name == "m"]
        assert found.never_negative(m)


HEAD = f"""c = {CONV} (x, w1) m = GlobalAveragePool (c) f = Flatten (m)
    y = Gemm (f, dense, db)"""


@pytest.mark.parametrize("last", [True, False])
def test_dense_head(last):
    scheme = schemes.lookup("tensorrt", quantize_last=last)
    inserting, _, reads = insert(HEAD, scheme, outputs="float[a,b] y")
    assert reads["m"] == ["q(c)"]
    assert reads["y"] == (["q(f)", "q(dense)", "db"] if last else ["f", "dense", "db"])
    assert inserting.report.kept == ([] if last else [Kept("y", "last dense layer")])


def test_matmul_and_add_is_quantised_per_column():
    body = HEAD.replace("y = Gemm (f, dense, db)", "h = MatMul (f, dense) y = Add (h, db)")
    _, after, reads = insert(body, outputs="float[a,b] y")
    assert reads["h"] == ["q(f)", "q(dense)"]
    assert reads["y"] == ["h", "db"], "a bias is no residual"
    assert constant(after, "dense_scale").shape == (6,)


def test_kept_nodes_get_no_pair_on_their_account():
    body = f"c1 = {CONV} (x, w1) r = Relu (c1) c2 = {CONV} (r, w2) y = {CONV} (c2, w3)"
    inserting, _, reads = insert(body, keep=["c2"])
    assert reads["c2"] == ["r", "w2"]
    assert reads["y"] == ["q(c2)", "q(w3)"]
    assert inserting.report.kept == [Kept("c2", "asked for")]
    _, _, reads = insert(IDENTITY, keep=["c2"])
    assert "q(r0)" in reads["s"], "the block's own convolution wants that pair"
    assert "q(c2)" not in reads["s"]


def test_any_choice_of_kept_nodes_needs_no_new_calibration():
    body = f"{IDENTITY.replace('y =', 'c5 =')} m = MaxPool <kernel_shape = [2, 2]> (c5)"
    body += f" y = {CONV} (m, w5)"
    graph = ir.from_proto(net(body))
    for scheme in schemes.SCHEMES.values():
        every = set(tensors_to_calibrate(graph, scheme))
        for node in graph.graph:
            name = node.outputs[0].name
            assert every.issuperset(tensors_to_calibrate(graph, scheme, keep=[name])), name


def test_weights_shared_by_two_convolutions():
    _, _, reads = insert(f"c = {CONV} (x, w1) r = Relu (c) y = {CONV} (r, w1)")
    assert reads["c"][1] == reads["y"][1] == "q(w1)"


def test_returned_activation_stays_float():
    _, _, reads = insert(f"c = {CONV} (x, w1) y = Relu (c)")
    assert reads == {"c": ["q(x)", "q(w1)"], "y": ["c"]}


def test_float_weights_have_a_q_before_the_dq():
    _, after, reads = insert(f"y = {CONV} (x, w1)", schemes.lookup("tensorrt", float_weights=True))
    assert reads["y"] == ["q(x)", "q(w1)"]
    assert constant(after, "w1").dtype == "float32"


@pytest.mark.parametrize(
    ("ranges", "keep", "message"),
    [
        ({}, [], "no range for tensor 'x'"),
        ({"x": (0, float("inf"))}, [], "the range of tensor 'x'"),
        ({"x": (1, 0)}, [], "the range of tensor 'x'"),
        ({"x": (0, 1)}, ["z"], "unknown node to keep 'z'"),
    ],
)
def test_what_is_refused(ranges, keep, message):
    graph = ir.from_proto(net(f"y = {CONV} (x, w1)"))
    with pytest.raises(WrongUse, match=message):
        InsertQdq(TENSORRT, ranges, keep=keep)(graph)


def test_old_opset_is_refused():
    model = net(f"y = {CONV} (x, w1)")
    model.opset_import[0].version = 12
    with pytest.raises(WrongUse, match="opset 12"):
        InsertQdq(TENSORRT, {})(ir.from_proto(model))
