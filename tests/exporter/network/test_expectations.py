"""Scaling inside a network is found wherever it is, and contradictions are refused."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from exporter.data.feeds import random_inputs
from exporter.errors import WrongUse
from exporter.network import sources
from exporter.network.expectations import Meaning, meanings, pixels_expected
from tests.exporter import networks

pytestmark = pytest.mark.tf


def network(keras: ModuleType, *first: Any) -> Any:
    layers = keras.layers
    inputs = x = keras.Input((16, 16, 3))
    for layer in first:
        x = layer(x)
    x = layers.GlobalAveragePooling2D()(layers.Conv2D(4, 3)(x))
    return keras.Model(inputs, layers.Dense(3)(x))


def begins(keras: ModuleType) -> dict[str, tuple[list[Any], str | None]]:
    layers = keras.layers
    signed = {"scale": 1 / 127.5, "offset": -1}
    nested = keras.Sequential([keras.Input((16, 16, 3)), layers.Rescaling(1 / 255)])
    torch = {"mean": [123.7, 116.3, 103.5], "variance": [3409.0, 3260.0, 3291.0]}
    unit = {"mean": [0.485, 0.456, 0.406], "variance": [0.052, 0.050, 0.051]}
    return {
        "first": ([layers.Rescaling(1 / 255)], "raw"),
        "augmented": (
            [layers.RandomFlip(), layers.RandomRotation(0.1), layers.Rescaling(**signed)],
            "raw",
        ),
        "resized": ([layers.Resizing(16, 16), layers.Rescaling(1 / 255)], "raw"),
        "nested": ([nested], "raw"),
        "normalized": ([layers.Normalization(**torch)], "raw"),
        "both": ([layers.Rescaling(1 / 255), layers.Normalization(**unit)], "raw"),
        "of unit": ([layers.Normalization(**unit)], None),
        "widening": ([layers.Rescaling(2.0, offset=-1)], None),
        "later": ([layers.Conv2D(3, 1), layers.Rescaling(1 / 255)], None),
        "none": ([], None),
    }


NAMES = [
    *("first", "augmented", "resized", "nested", "normalized", "both"),
    *("of unit", "widening", "later", "none"),
]


@pytest.mark.parametrize("name", NAMES)
def test_where_scaling_is_found(keras: ModuleType, name: str) -> None:
    first, expected = begins(keras)[name]
    assert pixels_expected(network(keras, *first)) == expected


def test_a_preprocessing_that_contradicts_it_is_refused(keras: ModuleType, tmp_path: Path) -> None:
    model = network(keras, *begins(keras)["augmented"][0])
    path = networks.save(model, tmp_path / "a.keras")
    with pytest.raises(WrongUse, match="trained with preprocessing 'raw', but --preprocess is"):
        sources.load(path, preprocessing="signed")
    assert sources.load(path).preprocessing == "raw"


def test_tokens_come_from_the_embedding(keras: ModuleType) -> None:
    layers = keras.layers
    words, other = keras.Input((5,)), keras.Input((3,))
    x = layers.GlobalAveragePooling1D()(layers.Embedding(7, 4)(words))
    model = keras.Model([words, other], layers.Dense(2)(layers.Concatenate()([x, other])))
    assert meanings(model, model.inputs) == [Meaning(tokens=7), Meaning()]
    source = sources.wrap(model, "words", "keras", "x", "0")
    drawn = random_inputs(source, 50, np.random.default_rng(0))
    tokens, floats = (drawn[port.name] for port in source.inputs)
    assert sorted({*tokens.ravel()}) == list(range(7))
    assert 0 <= floats.min() < floats.max() < 1


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [("raw", 0, 255), ("unit", 0, 1), ("signed", -1, 1), ("torch", -2.2, 2.7), (None, 0, 1)],
)
def test_random_pictures_are_in_the_range_of_the_network(
    keras: ModuleType, name: str | None, low: float, high: float
) -> None:
    source = sources.wrap(network(keras), "x", "keras", "x", "0", name)
    (drawn,) = random_inputs(source, 8, np.random.default_rng(0)).values()
    assert drawn.shape == (8, 16, 16, 3)
    assert drawn.dtype == np.float32
    assert low <= drawn.min() < low + 0.2 * (high - low)
    assert high - 0.2 * (high - low) < drawn.max() <= high
    means = drawn.mean(axis=(1, 2, 3))
    assert means.std() > 0.02 * (high - low), "white noise would be the same everywhere"


def test_masked_steps_are_drawn(keras: ModuleType) -> None:
    layers = keras.layers
    inputs = keras.Input((9, 2))
    x = layers.LSTM(3)(layers.Masking(mask_value=-1.0)(inputs))
    source = sources.wrap(keras.Model(inputs, x), "masked", "keras", "x", "0")
    assert meanings(source.model, source.model.inputs) == [Meaning(masked=-1.0)]
    (drawn,) = random_inputs(source, 40, np.random.default_rng(0)).values()
    masked = (drawn == -1).all(axis=2)
    lengths = (~masked).sum(axis=1)
    assert {1, 9} <= {*lengths.tolist()}
    assert (masked == (np.arange(9) >= lengths[:, None])).all(), "only the end is masked"
