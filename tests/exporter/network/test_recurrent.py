"""Recurrent layers: the same numbers as Keras, in ONNX's own LSTM where that is possible."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnxruntime
import pytest

from exporter import pipeline
from exporter.config import ExportConfig
from exporter.errors import ConversionError
from tests.exporter import networks

pytestmark = pytest.mark.tf

Layers = Any
Build = Callable[[Layers], tuple[tuple[int, ...], list[Any]]]
STEPS = (12, 5)

# The input's shape, and the layers on it; a dense layer follows.
NETWORKS: dict[str, Build] = {
    "lstm": lambda k: (STEPS, [k.LSTM(7)]),
    "lstm sequence": lambda k: (STEPS, [k.LSTM(7, return_sequences=True)]),
    "bidirectional": lambda k: (STEPS, [k.Bidirectional(k.LSTM(7, return_sequences=True))]),
    "two lstm": lambda k: (STEPS, [k.LSTM(4, return_sequences=True), k.LSTM(3)]),
    "backwards": lambda k: (STEPS, [k.LSTM(4, go_backwards=True)]),
    "gru": lambda k: (STEPS, [k.GRU(7)]),
    "gru of Keras 1": lambda k: (STEPS, [k.GRU(7, reset_after=False)]),
    "bidirectional gru": lambda k: (STEPS, [k.Bidirectional(k.GRU(3))]),
    "simple": lambda k: (STEPS, [k.SimpleRNN(7)]),
    "cells": lambda k: (STEPS, [k.RNN([k.LSTMCell(3), k.GRUCell(4)])]),
    "masked": lambda k: (STEPS, [k.Masking(), k.LSTM(7)]),
    "tokens": lambda k: ((12,), [k.Embedding(20, 6, mask_zero=True), k.LSTM(7)]),
    "convolutional": lambda k: ((4, 8, 8, 2), [k.ConvLSTM2D(3, 3), k.Flatten()]),
    "after a convolution": lambda k: (
        STEPS,
        [k.Conv1D(6, 3, padding="same"), k.BatchNormalization(), k.ReLU(), k.GRU(5)],
    ),
}


def build(keras: ModuleType, name: str) -> Any:
    keras.utils.set_random_seed(0)
    shape, layers = NETWORKS[name](keras.layers)
    x = inputs = keras.Input(shape)
    for layer in layers:
        x = layer(x)
    return networks.shake_statistics(keras.Model(inputs, keras.layers.Dense(3)(x)))


def export(model: Any, tmp_path: Path, **options: Any) -> Any:
    path = networks.save(model, tmp_path / "recurrent.keras")
    return pipeline.export(ExportConfig(path, "onnx", tmp_path / "out", **options))


@pytest.mark.parametrize("name", NETWORKS)
def test_it_is_the_same_network(keras: ModuleType, tmp_path: Path, name: str) -> None:
    model = build(keras, name)
    found = export(model, tmp_path).passport
    assert found["check"]["max_relative_error"] < 1e-5
    ops = found["graph"]["ops"]
    lstm = name in ("lstm", "lstm sequence", "bidirectional", "two lstm", "backwards")
    assert ("LSTM" in ops, "Loop" in ops) == (lstm, not lstm), ops
    if name == "after a convolution":
        assert found["passes"]["fold_batch_norm"]["applied"] == 1


def test_masks_are_kept(keras: ModuleType, tmp_path: Path) -> None:
    """Steps behind the end must not matter; without its mask, the network sees them."""
    model = build(keras, "masked")
    export(model, tmp_path)
    x = np.random.default_rng(0).random((3, *STEPS), np.float32)
    x[0, 4:] = 0
    x[1, :] = 0
    session = onnxruntime.InferenceSession(tmp_path / "out" / "model.onnx")
    (got,) = session.run(None, {"input": x})
    np.testing.assert_allclose(got, model(x, training=False), atol=1e-6)
    (cut,) = session.run(None, {"input": np.concatenate([x[:1, :4], 0 * x[:1, 4:]], axis=1)})
    np.testing.assert_allclose(cut, got[:1], atol=1e-6)


@pytest.mark.parametrize("name", ["lstm", "gru", "masked", "after a convolution"])
def test_fp16_leaves_the_recurrence_in_float(keras: ModuleType, tmp_path: Path, name: str) -> None:
    found = export(build(keras, name), tmp_path, precision="fp16").passport
    reasons = [kept["reason"] for kept in found["passes"]["to_fp16"]["kept"]]
    assert any("recurrence" in reason or "stays FP32" in reason for reason in reasons), reasons
    assert found["passes"]["to_fp16"]["applied"] > 0


def test_a_layer_that_keeps_its_state_is_refused_by_name(keras: ModuleType, tmp_path: Path) -> None:
    inputs = keras.Input(STEPS, batch_size=2)
    x = keras.layers.LSTM(7, stateful=True, name="memory")(inputs)
    with pytest.raises(ConversionError, match="memory keeps its state between calls") as caught:
        export(keras.Model(inputs, x), tmp_path)
    assert "stateful=False" in str(caught.value.hint)
    assert not (tmp_path / "out").exists()


def test_states_may_be_inputs_and_outputs(keras: ModuleType, tmp_path: Path) -> None:
    inputs, h, c = keras.Input(STEPS), keras.Input((4,)), keras.Input((4,))
    outputs = keras.layers.LSTM(4, return_state=True)(inputs, initial_state=[h, c])
    found = export(keras.Model([inputs, h, c], outputs), tmp_path).passport
    assert found["check"]["max_relative_error"] < 1e-5
    assert len(found["graph"]["outputs"]) == 3
