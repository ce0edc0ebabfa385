"""Whatever InsertQdq makes of a graph, the lint has no error for it, and it computes the same."""

from __future__ import annotations

import itertools

import numpy as np
import onnx_ir as ir
import pytest

from exporter.passes import schemes
from exporter.passes.lint_qdq import lint_qdq
from tests.exporter.passes.qdq_graphs import CONV, net, quantize, run

SCHEMES = [schemes.lookup("tensorrt"), schemes.lookup("cpu", reduce_range=True)]
# A value that an activation function reads, and something else too: no fusion to keep whole.
TWO_READERS = {
    "Add, ReLU and Conv": f"""a = {CONV} (x, w1) s = Add (x, a) e = {CONV} (s, w2) r = Relu (s)
        q = {CONV} (r, w3) y = Add (q, e)""",
    "Conv, ReLU and Conv": f"""a = {CONV} (x, w1) r = Relu (a) c = {CONV} (r, w2)
        e = {CONV} (a, w3) y = Add (c, e)""",
    "CReLU": f"""a = {CONV} (x, w1) r = Relu (a) k = Concat <axis = 0> (r, a)
        y = {CONV} (k, w2)""",
    "gate": f"""a = {CONV} (x, w1) e = Sigmoid (a) m = Mul (a, e) y = {CONV} (m, w2)""",
}
CLIPPED = {
    "both": f"a = {CONV} (x, w1) c = Clip (a, low, high) y = {CONV} (c, w2)",
    "above": f"a = {CONV} (x, w1) c = Clip (a, , high) y = {CONV} (c, w2)",
    "below": f"a = {CONV} (x, w1) c = Clip (a, low) y = {CONV} (c, w2)",
}
CONCAT = f"f = {CONV} (x, w1) r = Relu (f) e = {CONV} (r, w2) k = Concat <axis = 1> (r, e)"
FLOAT_CONCATS = {
    "returned": f"{CONCAT} y = Identity (k)",
    "pooled": f"{CONCAT} y = GlobalMaxPool (k)",
    "activated": f"{CONCAT} y = Relu (k)",
    "two pairs": f"{CONCAT} h = {CONV} (e, w3) n = Neg (k) y = Concat <axis = 1> (n, h)",
}


def check(body, scheme, *, keep=(), **constants):
    model = net(body, **constants)
    _, after = quantize(model, scheme, keep=keep)
    errors = [str(f) for f in lint_qdq(ir.from_proto(after), scheme) if f.severity == "error"]
    assert errors == []
    expected, got = run(model)["y"], run(after)["y"]
    noise = np.square(expected - got).sum() / np.square(expected).sum()
    assert noise < 1e-2, "20 dB: a wrong scale or a clipped branch has less"


@pytest.mark.parametrize("scheme", SCHEMES, ids=lambda s: s.name)
@pytest.mark.parametrize("name", TWO_READERS)
def test_a_pair_for_another_reader_is_no_defect(name, scheme):
    check(TWO_READERS[name], scheme)


@pytest.mark.parametrize("scheme", SCHEMES, ids=lambda s: s.name)
@pytest.mark.parametrize("name", CLIPPED)
def test_a_clip_that_unsigned_integers_do_not_do_by_themselves(name, scheme):
    limits = {"low": -0.5} if name != "above" else {}
    check(CLIPPED[name], scheme, **limits, **({"high": 0.7} if name != "below" else {}))


@pytest.mark.parametrize("scheme", SCHEMES, ids=lambda s: s.name)
@pytest.mark.parametrize("name", FLOAT_CONCATS)
def test_a_concat_in_float_may_read_a_pair(name, scheme):
    check(FLOAT_CONCATS[name], scheme)


@pytest.mark.parametrize("scheme", SCHEMES, ids=lambda s: s.name)
def test_any_layers_may_stay_in_float_around_a_concat(scheme):
    body = f"""a = {CONV} (x, w1) r = Relu (a) c = {CONV} (r, w2) q = Relu (c)
        k = Concat <axis = 0> (r, q) y = {CONV} (k, w3)"""
    for keep in itertools.chain.from_iterable(itertools.combinations("acy", n) for n in range(3)):
        check(body, scheme, keep=keep)


@pytest.mark.parametrize("scheme", SCHEMES, ids=lambda s: s.name)
def test_clip_bounds_of_one_element_are_bounds(scheme):
    """ONNX wants scalars; onnxruntime takes these too."""
    body = f"a = {CONV} (x, w1) c = Clip (a, low, high) y = {CONV} (c, w2)"
    check(body, scheme, low=[0], high=[6])
