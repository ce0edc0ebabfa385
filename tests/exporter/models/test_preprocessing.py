"""Preprocessing against Keras' own, and against the formula."""

from __future__ import annotations

from types import ModuleType

import numpy as np
import pytest

from exporter.errors import WrongUse
from exporter.models.preprocessing import PREPROCESSING, describe, preprocess


@pytest.fixture
def rgb() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (4, 9, 7, 3), dtype=np.uint8)


@pytest.mark.tf
@pytest.mark.parametrize(
    ("name", "mode"), [("caffe", "caffe"), ("torch", "torch"), ("signed", "tf")]
)
def test_agrees_with_keras_applications(
    keras: ModuleType, rgb: np.ndarray, name: str, mode: str
) -> None:
    expected = keras.applications.imagenet_utils.preprocess_input(
        rgb.astype(np.float32), data_format="channels_last", mode=mode
    )
    ours = preprocess(name, rgb)
    assert ours.dtype == np.float32
    # The same three float32 operations: a few units in the last place of the largest value.
    np.testing.assert_allclose(ours, expected, rtol=0, atol=4 * np.spacing(abs(expected).max()))


def test_unit_is_a_255th(rgb: np.ndarray) -> None:
    ours = preprocess("unit", rgb)
    assert ours.dtype == np.float32
    np.testing.assert_array_equal(ours, rgb.astype(np.float32) / np.float32(255))
    assert preprocess("unit", np.full((1, 1, 1, 1), 255, np.uint8)).item() == 1.0


def test_raw_changes_nothing_but_the_type(rgb: np.ndarray) -> None:
    ours = preprocess("raw", rgb)
    assert ours.dtype == np.float32
    np.testing.assert_array_equal(ours, rgb)


def test_signed_spans_minus_one_to_one() -> None:
    ours = preprocess("signed", np.array([0, 255], np.uint8).reshape(2, 1, 1, 1))
    assert ours.ravel().tolist() == [-1.0, 1.0]


@pytest.mark.parametrize("name", PREPROCESSING)
def test_leaves_the_pixels_alone(rgb: np.ndarray, name: str) -> None:
    before = rgb.copy()
    assert preprocess(name, rgb).shape == rgb.shape
    np.testing.assert_array_equal(rgb, before)


@pytest.mark.parametrize("name", ["caffe", "torch"])
def test_rgb_only_ones_refuse_grey(name: str) -> None:
    with pytest.raises(WrongUse, match=rf"'{name}' needs RGB .* 1 channel"):
        preprocess(name, np.zeros((1, 2, 2, 1), np.uint8))


def test_unknown_name_lists_the_nearest() -> None:
    with pytest.raises(WrongUse, match="unknown preprocessing 'cafe'") as caught:
        preprocess("cafe", np.zeros((1, 2, 2, 3), np.uint8))
    assert caught.value.hint == "did you mean: caffe?"


def test_describe_tells_height_from_width() -> None:
    record = describe("unit", (96, 128))
    assert record["name"] == "unit"
    assert (record["resize"]["height"], record["resize"]["width"]) == (96, 128)
