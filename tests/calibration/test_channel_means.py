"""Means by channel, against numpy."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from calibration.channel_means import channel_means
from calibration.errors import NoData, NotFinite

GRAPH = onnx.parser.parse_model(
    '<ir_version: 8, opset_import: ["" : 17]> g (float[N,C,H,W] x) => (float[N,C,H,W] t)'
    " { t = Identity (x) }"
)


class Identity:
    """A session of that graph."""

    def run(self, names, feeds):
        return [feeds["x"] for _ in names]


def means(parts, axis=1):
    batches = ({"x": part} for part in parts)
    return channel_means(GRAPH, {"t": axis}, batches, open_session=lambda _: Identity())["t"]


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_mean_over_all_but_the_channels(axis):
    x = np.random.default_rng(0).normal(100, 1, (6, 3, 4, 5)).astype(np.float32)
    others = tuple(i for i in range(4) if i != axis % 4)
    expected = x.astype(np.float64).mean(axis=others)
    np.testing.assert_allclose(means([x], axis), expected, rtol=1e-12)
    if axis:
        np.testing.assert_allclose(means([x[:1], x[1:]], axis), expected, rtol=1e-12)


def test_refuses_nothing_and_nonsense():
    with pytest.raises(NoData):
        means([])
    with pytest.raises(NotFinite, match="'t'"):
        means([np.full((1, 2, 3, 4), np.inf, np.float32)])
