"""FoldBatchNorm on batch norms written as Mul and Add, and on the biases between."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.exporter.passes.graphs import Net, affine_chain, count_batch_norms, fold, image, ops


@pytest.mark.parametrize("op", ["Conv", "ConvTranspose"])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(6, 1, 1), (1, 6, 1, 1)])
def test_mul_add_chain_after_convolution(op, bias, shape):
    folding, after = fold(affine_chain(image().conv(6, bias, group=2, op=op), shape=shape))
    assert folding.report.applied == ["shifting"]
    assert ops(after) == [op]


CHAINS = {
    "mul": ["Mul c"],
    "div": ["Div c"],
    "constant first": ["c Mul", "c Add"],
    "sub mul add": ["Sub c", "Mul c", "Add c"],
    "bias not merged yet": ["Add c", "Mul c", "Add c"],
    "constant minus x": ["Mul c", "c Sub"],
    "scalars between": ["Mul s", "Div c", "Add s", "Mul s"],
    "ends with a gain": ["Add c", "Mul c", "Mul s"],
}


@pytest.mark.parametrize("steps", CHAINS.values(), ids=CHAINS)
def test_chain_forms(steps):
    net = image().conv(bias=False)
    for index, step in enumerate(steps):
        swap = step[0] in "cs"
        shape = (6, 1, 1) if "c" in step.split() else ()
        op = step.strip("cs ")
        net.node(op, net.random(f"c{index}", *shape), name=f"step{index}", swap=swap)
    folding, after = fold(net)
    assert folding.report.applied == [f"step{len(steps) - 1}"]
    assert ops(after) == ["Conv"]


def test_a_gain_alone_gets_no_bias():
    net = image().conv(bias=False)
    _, after = fold(net.node("Mul", net.random("scale", 6, 1, 1)))
    assert len(after.graph.node[0].input) == 2


def test_mixed_forms_collapse_as_a_whole():
    net = affine_chain(image().conv()).batch_norm()
    net.node("Mul", net.random("gain", 6, 1, 1), name="gain")
    folding, after = fold(net)
    assert folding.report.applied == ["shifting", "bn"]
    assert ops(after) == ["Conv"]


def test_bias_then_batch_normalization():
    net = image().conv(bias=False)
    net.node("Add", net.random("late_bias", 1, 6, 1, 1)).batch_norm()
    folding, after = fold(net)
    assert folding.report.applied == ["bn"]
    assert folding.report_bias.applied == []
    assert ops(after) == ["Conv"]


@pytest.mark.parametrize("op", ["Add", "Sub"])
@pytest.mark.parametrize("bias", [True, False])
def test_bias_merge_is_counted_apart(op, bias):
    net = image().conv(bias=bias)
    net.node(op, net.random("late_bias", 1, 6, 1, 1), name="adding").node("Relu")
    folding, after = fold(net)
    assert (folding.report.applied, folding.report.kept) == ([], [])
    assert folding.report_bias.applied == ["adding"]
    assert ops(after) == ["Conv", "Relu"]


def test_scalar_gain_is_no_batch_norm():
    net = image().conv()
    net.node("Add", net.random("b", 6, 1, 1), name="adding")
    net.node("Mul", net.constant("half", 0.5))
    folding, after = fold(net)
    assert folding.report.applied == []
    assert folding.report_bias.applied == ["adding"]
    assert ops(after) == ["Conv", "Mul"]


def test_counts_both_forms_foldable_or_not():
    net = affine_chain(image().conv()).node("Relu").batch_norm()
    assert count_batch_norms(ir.from_proto(net.model())) == 2


@settings(deadline=None, max_examples=60)
@given(
    steps=st.lists(
        st.tuples(
            st.sampled_from(["Mul", "Div", "Add", "Sub"]),
            st.sampled_from([(), (1,), (5, 1, 1), (1, 5, 1, 1)]),
            st.booleans(),
        ),
        max_size=6,
    ),
    seed=st.integers(0, 2**16),
)
def test_any_chain(steps, seed):
    net = Net((1, 3, 5, 5), rng=np.random.default_rng(seed)).conv(5)
    for index, (op, shape, swap) in enumerate(steps):
        swap = swap and op != "Div"
        net.node(op, net.random(f"c{index}", *shape), name=f"step{index}", swap=swap)
    folding, after = fold(net)
    is_batch_norm = any(op in ("Mul", "Div") and 5 in shape for op, shape, _ in steps)
    assert len(folding.report.applied) == is_batch_norm
    if is_batch_norm:
        assert ops(after) == ["Conv"]
    assert folding.report.kept == []
