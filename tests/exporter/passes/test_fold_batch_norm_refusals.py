"""What FoldBatchNorm must leave alone, and the reason it gives."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import helper, numpy_helper

from exporter.passes import Kept
from exporter.passes.fold_batch_norm import FoldBatchNorm
from tests.exporter.passes.graphs import (
    Net,
    affine_chain,
    count_batch_norms,
    fold,
    image,
    ops,
    parse,
    uniform,
)


def assert_left_alone(net, *kept):
    before = ops(net.model())
    folding, after = fold(net)
    assert folding.report.applied == []
    assert folding.report.kept == [Kept(*pair) for pair in kept]
    assert ops(after) == before


def test_linear_output_used_elsewhere():
    net = image().conv().batch_norm()
    net.node("Relu", name="other", first="conv_out")
    net.outputs.append("bn_out")
    assert_left_alone(net, ("bn", "the linear node's output is used elsewhere"))


def test_chain_on_a_linear_output_used_elsewhere():
    net = affine_chain(image().conv())
    net.node("Relu", name="other", first="conv_out")
    net.outputs.append("shifting_out")
    assert_left_alone(net, ("scaling", "the linear node's output is used elsewhere"))


def test_linear_output_returned():
    net = image().conv().batch_norm()
    net.outputs.append("conv_out")
    assert_left_alone(net, ("bn", "the linear node's output is a graph output"))


@pytest.mark.parametrize("returned", [True, False])
def test_intermediate_value_used_elsewhere(returned):
    net = affine_chain(image().conv())
    if returned:
        net.outputs.append("scaling_out")
    else:
        net.node("Relu", name="other", first="scaling_out")
        net.outputs.append("shifting_out")
    folding, after = fold(net)
    reason = f"an intermediate value is {'a graph output' if returned else 'used elsewhere'}"
    assert folding.report.applied == ["scaling"], "what is before it folds"
    assert folding.report.kept == [Kept("shifting", reason)]
    assert "Mul" not in ops(after)
    assert "Add" in ops(after)


@pytest.mark.parametrize("shared", ["w", "bias"])
def test_shared_weights(shared):
    net = image().conv()
    names = [net.random("w2", 6, 4, 3, 3), net.random("b2", 6)]
    names = ["w", names[1]] if shared == "w" else [names[0], "bias"]
    net.batch_norm()
    net.node("Conv", *names, name="conv2", first="x")
    net.outputs.append("bn_out")
    reason = "weights shared" + (" (bias)" if shared == "bias" else "")
    assert_left_alone(net, ("bn", reason))


def test_shared_weight_lets_the_bias_merge():
    net = image().conv(bias=False)
    net.node("Add", net.random("b", 6, 1, 1), name="adding").batch_norm()
    net.node("Conv", "w", name="conv2", first="x")
    net.outputs.append("bn_out")
    folding, after = fold(net)
    assert folding.report.kept == [Kept("bn", "weights shared")]
    assert folding.report_bias.applied == ["adding"]
    assert ops(after) == ["Conv", "BatchNormalization", "Conv"]


@pytest.mark.parametrize("name", ["w", "bias", "bn_gamma", "bn_var"])
def test_graph_input(name):
    net = image().conv().batch_norm()
    net.graph_inputs.append(name)
    reason = {"w": "weights are a graph input", "bias": "bias is a graph input"}
    assert_left_alone(net, ("bn", reason.get(name, "a parameter is a graph input")))


def test_chain_constant_that_is_a_graph_input():
    net = affine_chain(image().conv())
    net.graph_inputs.append("scale")
    assert_left_alone(net, ("scaling", "a parameter is a graph input"))


def test_parameters_not_constant():
    net = image().conv()
    net.node("Sqrt", name="root", first=net.random("raw", 6, signed=False))
    names = [net.random(name, 6, signed=False) for name in ("g", "b", "m")]
    net.node("BatchNormalization", *names, "root_out", name="bn", first="conv_out")
    assert_left_alone(net, ("bn", "a parameter isn't constant"))


def test_weights_not_constant():
    net = image()
    net.random("raw", 6, 4, 3, 3)
    net.node("Neg", name="negated", first="raw")
    net.node("Conv", "negated_out", name="conv", first="x").batch_norm()
    assert_left_alone(net, ("bn", "weights aren't constant"))


def test_training_mode():
    net = image().conv()
    outputs = ["bn_out", "running_mean", "running_var"]
    net.batch_norm(training_mode=1, outputs=outputs)
    graph = ir.from_proto(net.model())
    folding = FoldBatchNorm()
    assert not folding(graph).modified
    assert folding.report.kept == [Kept("bn", "training_mode=1")]
    assert count_batch_norms(graph) == 1


def test_pre_activation():
    net = image().conv(4, pads=[1, 1, 1, 1]).node("Relu").batch_norm(4)
    assert_left_alone(net, ("bn", "its input is the output of Relu, not a linear node's output"))


def test_pre_activation_as_mul_and_add():
    """DenseNet's batch norms behind a Concat or a Relu, as tf2onnx writes them."""
    net = affine_chain(image().conv(6, pads=[1, 1, 1, 1]).node("Relu"))
    folding = FoldBatchNorm()
    assert not folding(ir.from_proto(net.model())).modified
    assert folding.report.kept == [
        Kept("shifting", "its input is the output of Relu, not a linear node's output")
    ]


def features(before: str) -> ir.Model:
    """A Mul and an Add with one constant per channel, of 8 features."""
    model = parse(
        f"{before} m = Mul (r, gain) y = Add (m, shift)", inputs="float[N,8] x",
        outputs="float[N,8] y", gain=uniform(8), shift=uniform(8, seed=1),
    )  # fmt: skip
    return ir.from_proto(model)


def test_a_batch_norm_of_features_after_a_relu_is_counted():
    folding = FoldBatchNorm()
    assert not folding(features("r = Relu (x)")).modified
    (kept,) = folding.report.kept
    assert kept.reason == "its input is the output of Relu, not a linear node's output"


def test_the_end_of_a_layer_normalization_is_no_batch_norm():
    before = "c = ReduceMean <axes = [1], keepdims = 1> (x) d = Sub (x, c) r = Div (d, c)"
    folding = FoldBatchNorm()
    assert not folding(features(before)).modified
    assert folding.report.kept == []


@pytest.mark.parametrize("shape", [(5,), (1, 1, 1, 5), (6, 1), (2, 1, 1, 1)])
def test_constant_along_another_axis(shape):
    net = Net((2, 4, 8, 7)).conv()  # conv gives [2, 6, 6, 5]
    net.node("Mul", net.random("scale", *shape), name="scaling")
    assert_left_alone(net, ("scaling", "constant varies along another axis than channels"))


def test_last_axis_of_the_channels_size_is_no_channel_axis():
    net = Net((2, 4, 8, 8)).conv()  # conv gives [2, 6, 6, 6]: no shape tells the axes apart
    net.node("Mul", net.random("scale", 6), name="scaling")
    assert_left_alone(net, ("scaling", "constant varies along another axis than channels"))


def test_constant_that_widens_the_output():
    net = image().conv(1)
    net.node("Mul", net.random("scale", 1, 6, 1, 1), name="scaling")
    assert_left_alone(net, ("scaling", "constant's size isn't the number of channels"))


def test_constant_that_raises_the_rank():
    net = image().conv()
    net.node("Mul", net.random("scale", 1, 1, 6, 1, 1), name="scaling")
    assert_left_alone(net, ("scaling", "constant may raise the rank of the result"))


def test_batch_normalization_over_another_axis_than_the_matmuls():
    net = Net((2, 5, 7))
    net.node("MatMul", net.random("w", 7, 5), name="fc").batch_norm(5)
    reason = "its channel axis 1 isn't known to be the linear node's last"
    assert_left_alone(net, ("bn", reason))


def test_integer_matmul():
    net = Net((3, 7)).node("Cast", to=onnx.TensorProto.INT32)
    net.node("MatMul", net.constant("w", 0), name="fc").node("Mul", "k", name="scaling")
    net.node("Cast", to=onnx.TensorProto.FLOAT)
    net.arrays["w"] = np.arange(35, dtype=np.int32).reshape(7, 5)
    net.arrays["k"] = np.arange(5, dtype=np.int32)
    assert_left_alone(net, ("scaling", "constant is int32, not float"))


@pytest.mark.parametrize("bad", [-1.0, np.nan, np.inf])
def test_bad_variance(bad):
    net = image().conv().batch_norm()
    net.arrays["bn_var" if bad != np.inf else "bn_mean"][2] = bad
    reason = "its constants give a number that isn't finite"
    graph = ir.from_proto(net.model())
    folding = FoldBatchNorm()
    assert not folding(graph).modified
    assert folding.report.kept == [Kept("bn", reason)]
    assert count_batch_norms(graph) == 1


def test_zero_divisor_ends_the_chain():
    net = image().conv()
    net.node("Mul", net.random("scale", 6, 1, 1), name="scaling")
    net.node("Div", net.constant("zero", np.zeros((6, 1, 1))), name="dividing")
    folding = FoldBatchNorm()
    folding(ir.from_proto(net.model()))
    assert folding.report.applied == ["scaling"]
    reason = "its constants give a number that isn't finite"
    assert folding.report.kept == [Kept("dividing", reason)]


def test_overflow_in_float32():
    net = image().conv()
    net.constant("w", net.arrays["w"] * 1e20)
    net.batch_norm()
    net.constant("bn_gamma", np.full(6, 1e20))
    folding = FoldBatchNorm()
    assert not folding(ir.from_proto(net.model())).modified
    assert folding.report.kept == [Kept("bn", "folded weights aren't finite in float32")]


def test_gate_and_residual_are_no_batch_norm():
    net = image().conv(4, pads=[1, 1, 1, 1])
    net.node("Sigmoid", name="gate").node("Mul", "conv_out").node("Add", "x")
    assert_left_alone(net)


def test_constant_divided_by_x_is_not_affine():
    net = image().conv()
    net.node("Div", net.random("c", 6, 1, 1), swap=True)
    assert_left_alone(net)


def test_nothing_linear():
    assert_left_alone(image().node("Relu"))


def test_subgraphs_are_left_alone():
    inner = Net((2, 4, 6, 5)).conv().batch_norm()
    branch = helper.make_graph(
        inner.nodes,
        "branch",
        [],
        [helper.make_tensor_value_info("bn_out", onnx.TensorProto.FLOAT, None)],
        [numpy_helper.from_array(array, name) for name, array in inner.arrays.items()],
    )
    other = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["same"])],
        "other",
        [],
        [helper.make_tensor_value_info("same", onnx.TensorProto.FLOAT, None)],
    )
    net = Net((2, 4, 6, 5))
    net.arrays["condition"] = np.array(True)
    net.nodes.append(
        helper.make_node("If", ["condition"], ["y"], then_branch=branch, else_branch=other)
    )
    net.last = "y"
    assert_left_alone(net, ("bn", "in a subgraph"))


def test_a_batch_norm_in_a_subgraph_of_a_linear_node_outside():
    net = image().conv()
    names = [net.random(part, 6, signed=False) for part in ("gamma", "beta", "mean", "var")]
    result = helper.make_tensor_value_info("bn_out", onnx.TensorProto.FLOAT, None)
    inner = helper.make_node("BatchNormalization", ["conv_out", *names], ["bn_out"], name="bn")
    branch = helper.make_graph([inner], "branch", [], [result])
    result = helper.make_tensor_value_info("same", onnx.TensorProto.FLOAT, None)
    same = helper.make_node("Identity", ["conv_out"], ["same"])
    other = helper.make_graph([same], "other", [], [result])
    net.arrays["condition"] = np.array(True)
    net.nodes.append(
        helper.make_node("If", ["condition"], ["y"], then_branch=branch, else_branch=other)
    )
    net.last = "y"
    assert_left_alone(net, ("bn", "in a subgraph"))


def test_matmul_bias_is_left_as_it_is():
    net = Net((3, 7))
    net.node("MatMul", net.random("w", 7, 5), name="fc").node("Add", net.random("b", 5))
    assert_left_alone(net)
