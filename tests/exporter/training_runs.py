"""What the tests of training share: a network that compiles in a second, runs cut short."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from exporter.training import train
from exporter.training.train import TrainConfig

draw = train._plot  # some tests put something else in its place


def tiny_build(name: str, *, image_size: int, channels: int, classes: int) -> Any:
    """Stand in for ``zoo.build``: one convolution and batch norm, compiled in a second."""
    import keras
    from keras import layers

    inputs = keras.Input((image_size, image_size, channels), name="input")
    x = layers.Conv2D(8, 5, name="conv")(inputs)
    x = layers.ReLU(name="relu")(layers.BatchNormalization(momentum=0.9, name="bn")(x))
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    return keras.Model(inputs, layers.Dense(classes, name="logits")(x), name="tiny")


def configure(tmp_path: Path, data: str, **changes: Any) -> TrainConfig:
    options: dict[str, Any] = {
        "model": "resnet18",
        "data": data,
        "output": tmp_path / "out.keras",
        "epochs": 3,
        "image_size": 16,
        "batch_size": 16,
        "learning_rate": 0.05,
        "shift": 0.1,
    }
    return TrainConfig(**{**options, **changes})


class Interrupter:
    """A progress callback that stops the run in the middle of an epoch."""

    def __init__(self, stage: str, action: Callable[[], None]) -> None:
        self.stage, self.action = stage, action

    def __call__(self, stage: str, done: int, total: int, note: str = "") -> None:
        if stage.startswith(self.stage) and done == 2:
            self.action()


def ctrl_c() -> None:
    raise KeyboardInterrupt


def run_interrupted(config: TrainConfig, stage: str = "epoch 2") -> None:
    with pytest.raises(KeyboardInterrupt):
        train.train(config, Interrupter(stage, ctrl_c))


def without_seconds(result: dict[str, Any]) -> list[dict[str, float]]:
    return [{k: v for k, v in row.items() if k != "seconds"} for row in result["epochs"]]


def assert_same(one: list[np.ndarray], two: list[np.ndarray]) -> None:
    for a, b in zip(one, two, strict=True):
        np.testing.assert_array_equal(a, b)
