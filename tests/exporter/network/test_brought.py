"""Twelve small networks that people bring, each of which version 0.1.0 refused or got wrong.

They are copied from the project's collection of cases (``cases/networks/networks.py``).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from exporter import pipeline
from exporter.config import ExportConfig, InputSize
from tests.exporter import networks

pytestmark = pytest.mark.tf
Build = Callable[[ModuleType, Any], Any]
NETWORKS: dict[str, tuple[Build, dict[str, Any]]] = {}


def network(**options: Any) -> Callable[[Build], Build]:
    """Register a network, with the options that its export needs."""

    def register(build: Build) -> Build:
        NETWORKS[build.__name__] = build, options
        return build

    return register


@network()
def binary_one_logit(keras: ModuleType, k: Any) -> Any:
    x = keras.Input((48, 48, 3))
    y = k.ReLU()(k.BatchNormalization()(k.Conv2D(8, 3)(k.Rescaling(1 / 255)(x))))
    return keras.Model(x, k.Dense(1)(k.GlobalAveragePooling2D()(y)))


@network(input_size=InputSize.parse("32x32:48x64:96x80"))
def open_size(keras: ModuleType, k: Any) -> Any:
    x = keras.Input((None, None, 3))
    y = k.Conv2D(16, 3, padding="same", activation="relu")(x)
    return keras.Model(x, k.Dense(10, activation="softmax")(k.GlobalAveragePooling2D()(y)))


@network()
def segmentation(keras: ModuleType, k: Any) -> Any:
    x = keras.Input((64, 64, 3))
    y = k.Conv2D(8, 3, padding="same", use_bias=False)(x)
    y = k.ReLU()(k.BatchNormalization()(y))
    z = k.ReLU()(k.Conv2D(16, 3, padding="same")(k.MaxPooling2D()(y)))
    z = k.Concatenate()([k.Conv2DTranspose(8, 2, strides=2)(z), y])
    return keras.Model(x, k.Conv2D(3, 1, activation="softmax")(z))


@network()
def two_heads(keras: ModuleType, k: Any) -> Any:
    y = x = keras.Input((64, 64, 3))
    for filters in (8, 16, 32):
        y = k.Conv2D(filters, 3, strides=2, padding="same", use_bias=False)(y)
        y = k.ReLU()(k.BatchNormalization()(y))
    y = k.GlobalAveragePooling2D()(y)
    box = k.Dense(4, activation="sigmoid", name="box")(y)
    return keras.Model(x, {"label": k.Dense(10, name="label")(y), "box": box})


@network()
def lstm_sequence(keras: ModuleType, k: Any) -> Any:
    x = keras.Input((4, 10))
    return keras.Model(x, k.Dense(3)(k.LSTM(10, return_sequences=True)(x)))


@network()
def gru_open_time(keras: ModuleType, k: Any) -> Any:
    x = keras.Input((None, 6))
    return keras.Model(x, k.Dense(2)(k.GRU(8)(x)))


@network()
def same_tensor_twice(keras: ModuleType, k: Any) -> Any:
    x = keras.Input((6,))
    y = k.Dense(6, name="d")(x)
    return keras.Model(x, [y, y])


@network()
def conv1d(keras: ModuleType, k: Any) -> Any:
    y = x = keras.Input((120, 1))
    for _ in range(3):
        y = k.ReLU()(k.BatchNormalization()(k.Conv1D(32, 3, padding="same")(y)))
    return keras.Model(x, k.Dense(2, activation="softmax")(k.GlobalAveragePooling1D()(y)))


@network()
def scaling_inside(keras: ModuleType, k: Any) -> Any:
    x = keras.Input((48, 48, 3))
    y = k.RandomRotation(0.1)(k.RandomFlip("horizontal")(x))
    y = k.ReLU()(k.Conv2D(8, 3)(k.Rescaling(1 / 127.5, offset=-1)(y)))
    return keras.Model(x, k.Dense(3)(k.GlobalAveragePooling2D()(y)))


@network()
def dense_batch_norm(keras: ModuleType, k: Any) -> Any:
    x = keras.Input((16,))
    y = k.ReLU()(k.BatchNormalization()(k.Dense(32)(x)))
    return keras.Model(x, k.Dense(4)(k.BatchNormalization()(y)))


@network()
def mixed_float16(keras: ModuleType, k: Any) -> Any:
    half = keras.dtype_policies.DTypePolicy("mixed_float16")
    x = keras.Input((32, 32, 3))
    y = k.BatchNormalization(dtype=half)(k.Conv2D(16, 3, dtype=half)(x))
    return keras.Model(x, k.Dense(5, dtype="float32")(k.GlobalAveragePooling2D(dtype=half)(y)))


@network()
def efficientnet_random(keras: ModuleType, k: Any) -> Any:
    return keras.applications.EfficientNetB0(weights=None, input_shape=(64, 64, 3), classes=10)


@pytest.mark.parametrize("name", NETWORKS)
def test_it_is_exported_right(keras: ModuleType, tmp_path: Path, name: str) -> None:
    keras.utils.set_random_seed(1)
    build, options = NETWORKS[name]
    path = networks.save(build(keras, keras.layers), tmp_path / f"{name}.keras")
    found = pipeline.export(ExportConfig(path, "onnx", tmp_path / "out", **options)).passport
    check = found["check"]
    assert check["label_flips"] == 0
    assert check["max_relative_error"] <= max(1e-5, 8 * check.get("keras_error", 0))


def test_each_batch_norm_around_dense_layers_is_counted(keras: ModuleType, tmp_path: Path) -> None:
    model = dense_batch_norm(keras, keras.layers)
    path = networks.save(networks.shake_statistics(model), tmp_path / "dense.keras")
    passport = pipeline.export(ExportConfig(path, "onnx", tmp_path / "out")).passport
    found = passport["passes"]["fold_batch_norm"]
    assert (found["applied"], len(found["kept"])) == (1, 1)
    assert found["kept"][0]["reason"].startswith("its input is the output of Relu")
