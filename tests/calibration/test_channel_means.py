"""Means by channel, against numpy."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from calibration.channel_means import ChannelMeans, channel_means, mean_error
from calibration.errors import NoData, NotFinite

GRAPH = onnx.parser.parse_model(
    '<ir_version: 8, opset_import: ["" : 17]> g (float[N,C,H,W] x) => (float[N,C,H,W] t)'
    " { t = Identity (x) }"
)


class Identity:
    """A session of that graph."""

    def run(self, names, feeds):
        return [feeds["x"] for _ in names]


def measured(parts, axis=1):
    batches = ({"x": part} for part in parts)
    return channel_means(GRAPH, {"t": axis}, batches, open_session=lambda _: Identity())["t"]


@pytest.mark.parametrize("axis", [1, 2, -1])
def test_means_over_all_but_images_and_channels(axis):
    x = np.random.default_rng(0).normal(100, 1, (6, 3, 4, 5)).astype(np.float32)
    others = tuple(i for i in range(1, 4) if i != axis % 4)
    for found in (measured([x], axis), measured([x[:1], x[1:]], axis)):
        wide = x.astype(np.float64)
        np.testing.assert_allclose(found.means, wide.mean(axis=others), rtol=1e-12)
        np.testing.assert_allclose(found.powers, (wide**2).mean(axis=(1, 2, 3)), rtol=1e-12)


def test_refuses_nothing_and_nonsense():
    with pytest.raises(NoData):
        measured([])
    with pytest.raises(NotFinite, match="'t'"):
        measured([np.full((1, 2, 3, 4), np.inf, np.float32)])


def test_mean_error_minimises_the_relative_error():
    rng = np.random.default_rng(0)
    expected = ChannelMeans(rng.normal(size=(8, 3)), rng.uniform(0.1, 9, 8))
    got = ChannelMeans(expected.means - rng.normal(2, 1, (8, 3)), np.ones(8))
    found = mean_error(expected, got)

    def cost(shift):
        relative = (expected.means - got.means - shift) ** 2 / expected.powers[:, None]
        return relative.sum(axis=0)

    for step in (1e-3, -1e-3):
        assert (cost(found + step) > cost(found)).all()


def test_one_loud_image_does_not_decide():
    ones = np.ones((9, 2))
    loud = np.concatenate([ones, 1000 * ones[:1]])
    powers = np.array([1.0] * 9 + [1e6])
    found = mean_error(ChannelMeans(loud, powers), ChannelMeans(loud * 0.9, powers))
    np.testing.assert_allclose(found, 0.1, rtol=1e-3)  # a plain mean would add 10


def test_images_of_zeros_count_only_where_all_are():
    zeros = ChannelMeans(np.zeros((2, 1)), np.zeros(2))
    assert mean_error(zeros, ChannelMeans(np.full((2, 1), -3.0), np.ones(2))) == 3
    one = ChannelMeans(np.array([[0.0], [1.0]]), np.array([0.0, 1.0]))
    assert mean_error(one, ChannelMeans(np.array([[9.0], [0.5]]), np.ones(2))) == 0.5
