"""FoldBatchNorm against onnx's reference evaluator on the unfolded graph."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper

from exporter.passes.fold_batch_norm import FoldBatchNorm
from tests.exporter.passes.graphs import Net, affine_chain, fold, image, ops


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("group", "channels"), [(1, 6), (2, 6), (4, 4), (4, 8)])
@pytest.mark.parametrize("op", ["Conv", "ConvTranspose"])
def test_batch_normalization_after_convolution(op, rank, bias, group, channels):
    net = image(rank).conv(channels, bias, rank, group, op).batch_norm(channels)
    folding, after = fold(net)
    assert folding.report.applied == ["bn"]
    assert folding.report.kept == []
    assert folding.report_bias.applied == []
    assert ops(after) == [op]
    assert {i.name for i in after.graph.initializer} == {"w", "bias" if bias else "conv_bias"}


def test_weights_are_the_formula_rounded_once():
    net = image().conv().batch_norm(epsilon=0.02)
    a64 = {name: array.astype(np.float64) for name, array in net.arrays.items()}
    _, after = fold(net)
    scale = a64["bn_gamma"] / np.sqrt(a64["bn_var"] + np.float32(0.02).astype(np.float64))
    got = {i.name: numpy_helper.to_array(i) for i in after.graph.initializer}
    weight = (a64["w"] * scale[:, None, None, None]).astype(np.float32)
    bias = (a64["bias"] * scale + (a64["bn_beta"] - a64["bn_mean"] * scale)).astype(np.float32)
    np.testing.assert_array_equal(got["w"], weight)
    # The sum may be ordered otherwise in float64: at most one float32 step apart.
    np.testing.assert_array_max_ulp(got["bias"], bias, maxulp=1)


@pytest.mark.parametrize("epsilon", [None, 1e-3, 0.5])
def test_epsilon_of_the_node(epsilon):
    attributes = {} if epsilon is None else {"epsilon": epsilon}
    net = image().conv()
    net.batch_norm(**attributes)
    net.constant("bn_var", [1e-4, 1e-3, 1e-2, 0.1, 1, 2])
    folding, _ = fold(net)
    assert folding.report.applied == ["bn"]


def test_every_layer_has_its_own_epsilon():
    net = image().conv(4).batch_norm(4, epsilon=0.3)
    net.node("Relu").node("Conv", net.random("w2", 5, 4, 1, 1), name="conv2")
    net.batch_norm(5, prefix="bn2", epsilon=1e-3)
    folding, after = fold(net)
    assert folding.report.applied == ["bn", "bn2"]
    assert ops(after) == ["Conv", "Relu", "Conv"]


@pytest.mark.parametrize("trans_b", [0, 1])
@pytest.mark.parametrize("c_shape", [None, (5,), (1, 5), (), (1,)])
@pytest.mark.parametrize("form", ["node", "chain"])
def test_gemm(trans_b, c_shape, form):
    net = Net((3, 7))
    inputs = [net.random("w", *((5, 7) if trans_b else (7, 5)))]
    inputs += [] if c_shape is None else [net.random("c", *c_shape)]
    net.node("Gemm", *inputs, name="fc", transB=trans_b, alpha=0.7, beta=1.9)
    net = net.batch_norm(5) if form == "node" else affine_chain(net, shape=(5,))
    folding, after = fold(net)
    assert folding.report.applied == ["bn" if form == "node" else "shifting"]
    assert ops(after) == ["Gemm"]


def test_square_gemm_scales_the_output_side():
    for trans_b in (0, 1):  # with a square weight no shape tells the axes apart
        net = Net((3, 5))
        net.node("Gemm", net.random("w", 5, 5), name="fc", transB=trans_b).batch_norm(5)
        assert fold(net)[0].report.applied == ["bn"]


@pytest.mark.parametrize("x_shape", [(3, 7), (2, 3, 7)])
def test_matmul_keeps_one_add(x_shape):
    net = Net(x_shape)
    net.node("MatMul", net.random("w", 7, 5), name="fc")
    net.node("Add", net.random("fc_bias", 5))
    folding, after = fold(affine_chain(net, shape=(5,)))
    assert folding.report.applied == ["shifting"]
    assert ops(after) == ["MatMul", "Add"]


def test_matmul_takes_a_batch_normalization_at_rank_2():
    net = Net((3, 7))
    net.node("MatMul", net.random("w", 7, 5), name="fc").batch_norm(5)
    folding, after = fold(net)
    assert folding.report.applied == ["bn"]
    assert ops(after) == ["MatMul", "Add"]


def test_constant_nodes_serve_too():
    net = image()
    weight = numpy_helper.from_array(net.rng.normal(size=(6, 4, 3, 3)).astype(np.float32))
    net.nodes.append(helper.make_node("Constant", [], ["w"], name="constant", value=weight))
    folding, after = fold(net.node("Conv", "w", name="conv").batch_norm())
    assert folding.report.applied == ["bn"]
    assert ops(after) == ["Conv"]


def test_batch_norms_may_share_their_parameters():
    net = image().conv().batch_norm().node("Relu")
    net.node("Conv", net.random("w2", 6, 6, 1, 1), name="conv2")
    shared = ["bn_gamma", "bn_beta", "bn_mean", "bn_var"]
    net.node("BatchNormalization", *shared, name="bn2")
    assert fold(net)[0].report.applied == ["bn", "bn2"]


def test_float16_stays_float16():
    net = image().conv().batch_norm()
    graph = ir.from_proto(net.model())
    for value in graph.graph.initializers.values():
        value.const_value = ir.Tensor(value.const_value.numpy().astype(np.float16))
    assert FoldBatchNorm()(graph).modified
    dtypes = {value.const_value.dtype for value in graph.graph.initializers.values()}
    assert dtypes == {ir.DataType.FLOAT16}


@settings(deadline=None, max_examples=60)
@given(
    op=st.sampled_from(["Conv", "ConvTranspose"]),
    group=st.integers(1, 4),
    inner=st.integers(1, 3),
    outer=st.integers(1, 3),
    bias=st.booleans(),
    epsilon=st.floats(1e-6, 1.0),
    seed=st.integers(0, 2**16),
)
def test_any_grouping_and_epsilon(op, group, inner, outer, bias, epsilon, seed):
    net = Net((1, group * inner, 4, 4), rng=np.random.default_rng(seed))
    net.conv(group * outer, bias, group=group, op=op).batch_norm(group * outer, epsilon=epsilon)
    folding, after = fold(net)
    assert folding.report.applied == ["bn"]
    assert ops(after) == [op]
