"""Second moments: windows against onnxruntime's own convolution, sums against numpy."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator

from calibration import gram
from calibration.errors import NoData, NotFinite
from calibration.gram import Window, second_moments, windows

X = np.random.default_rng(0).normal(size=(3, 4, 7, 6)).astype(np.float32)


def convolve(x, weight, window):
    """By onnx's reference evaluator: (channels, images * positions)."""
    node = onnx.helper.make_node(
        "Conv",
        ["x", "w"],
        ["y"],
        strides=window.strides,
        dilations=window.dilations,
        pads=window.pads,
        group=window.groups,
    )
    evaluator = ReferenceEvaluator(node)
    (y,) = evaluator.run(None, {"x": x, "w": weight})
    return np.moveaxis(y, 1, 0).reshape(len(weight), -1)


@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize(
    ("kernel", "strides", "dilations", "pads"),
    [
        ((3, 3), (1, 1), (1, 1), (1, 1, 1, 1)),
        ((3, 2), (2, 1), (1, 2), (0, 2, 1, 0)),
        ((1, 1), (2, 2), (1, 1), (0, 0, 0, 0)),
    ],
)
def test_weights_times_windows_are_the_convolution(groups, kernel, strides, dilations, pads):
    features = 4 // groups * int(np.prod(kernel))
    window = Window(features, kernel, strides, dilations, pads, groups)
    weight = np.random.default_rng(1).normal(size=(8, 4 // groups, *kernel)).astype(np.float32)
    rows = windows(X, window)
    assert rows.shape[::2] == (groups, features)
    got = weight.reshape(groups, -1, features) @ rows.swapaxes(1, 2)
    expected = convolve(X, weight, window)
    np.testing.assert_allclose(got.reshape(expected.shape), expected, atol=1e-5)


def test_dense_layers_read_whole_rows():
    x = np.arange(12, dtype=np.float32).reshape(2, 2, 3)
    np.testing.assert_array_equal(windows(x, Window(3)), [x.reshape(4, 3)])


def test_large_maps_are_sampled_the_same_however_they_are_batched(monkeypatch):
    monkeypatch.setattr(gram, "POSITIONS", 5)
    window = Window(4, (1, 1), (1, 1), (1, 1), (0, 0, 0, 0))
    every = windows(X, window)
    assert every.shape == (1, 15, 4)
    parts = [windows(X[i : i + 1], window, first_image=i) for i in range(3)]
    np.testing.assert_array_equal(np.concatenate(parts, axis=1), every)
    assert len({tuple(row) for row in every[0]}) == 15, "without replacement"
    assert not np.array_equal(
        windows(np.repeat(X[:1], 2, 0), window)[0, :5],
        windows(np.repeat(X[:1], 2, 0), window)[0, 5:],
    ), "each image has positions of its own"


class Identity:
    """A session of a graph that gives its input back as t."""

    def run(self, names, feeds):
        return [feeds["x"] for _ in names]


def graph():
    return onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]> g (float[N,C,H,W] x) => (float[N,C,H,W] t)'
        " { t = Identity (x) }"
    )


def moments_of(x, sizes):
    parts = np.split(x, np.cumsum(sizes)[:-1])
    return second_moments(
        graph(),
        {
            "conv": ("t", Window(9, (3, 3), (1, 1), (1, 1), (1, 1, 1, 1), 4)),
            "dense": ("x", Window(6)),
        },
        ({"x": part} for part in parts),
        images=len(x),
        open_session=lambda _: Identity(),
    )


def test_mean_of_outer_products_whatever_the_batches():
    found = moments_of(X, [3])
    wide = X.astype(np.float64)
    relative = wide / np.sqrt((wide**2).mean(axis=(1, 2, 3), keepdims=True))
    rows = relative.reshape(-1, 6)
    np.testing.assert_allclose(found["dense"][0], rows.T @ rows / len(rows), rtol=1e-5)
    assert found["conv"].shape == (4, 9, 9)
    again = moments_of(X, [1, 2])
    for name, matrix in found.items():
        np.testing.assert_allclose(again[name], matrix, rtol=1e-5, atol=1e-6)


def test_images_count_alike_whatever_their_size():
    loud = X * np.float32([1, 1000, 1e-30])[:, None, None, None]
    for name, matrix in moments_of(loud, [2, 1]).items():
        np.testing.assert_allclose(matrix, moments_of(X, [3])[name], rtol=1e-4, atol=1e-5)
    silent = moments_of(X * np.float32([1, 0, 1])[:, None, None, None], [3])
    assert all(np.isfinite(matrix).all() for matrix in silent.values())


def test_refuses_nothing_and_nonsense():
    with pytest.raises(NoData):
        second_moments(
            graph(), {"a": ("t", Window(6))}, [], images=1, open_session=lambda _: Identity()
        )
    bad = X.copy()
    bad[1, 2, 3, 4] = np.nan
    with pytest.raises(NotFinite, match="'t'"):
        moments_of(bad, [3])
