"""The comparison with Keras: right graphs pass although they round, and wrong ones never do."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from exporter import pipeline, proof
from exporter.artifact import serialize
from exporter.config import ExportConfig
from exporter.data.feeds import random_inputs
from exporter.errors import ConversionError
from exporter.network import frontend, sources
from exporter.network.sources import Source
from exporter.proof import prove_equal
from tests.exporter import networks

pytestmark = pytest.mark.tf


def with_statistics(keras: ModuleType, model: Any, images: np.ndarray) -> Any:
    """Give batch norms the statistics of IMAGES, as training would."""
    norms = [x for x in model.layers if isinstance(x, keras.layers.BatchNormalization)]
    for norm in norms:
        norm.momentum = 0.0
    model(images, training=True)
    return model


@pytest.fixture(scope="module")
def efficient(keras: ModuleType) -> Any:
    """EfficientNetV2B0, whose rounding errors are 1e-4: a fixed tolerance of 1e-4 refuses it."""
    keras.utils.set_random_seed(1)
    model = keras.applications.EfficientNetV2B0(
        weights=None, input_shape=(64, 64, 3), classes=10, classifier_activation=None
    )
    return with_statistics(keras, model, pixels(32, 64))


def pixels(count: int, size: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    source = Source(
        *("x", "keras", "x", "0", lambda _: (), lambda x: x),
        inputs=(sources.Port("input", (None, size, size, 3), "float32"),),
        outputs=(),
        model=None,
        layers=(),
        preprocessing="raw",
        classes=(),
    )
    return random_inputs(source, count, rng)["input"]


def graph(source: Source) -> ir.Model:
    model = frontend.to_onnx(source)
    pipeline.run_passes(model, "nhwc")
    return model


@pytest.fixture(scope="module")
def source(efficient: Any) -> Source:
    return sources.wrap(efficient, "efficient", "keras", "x", "0")


@pytest.fixture(scope="module")
def data(source: Source) -> bytes:
    return serialize.checked_bytes(graph(source))


def test_a_network_that_amplifies_rounding_is_measured_against_float64(
    source: Source, data: bytes
) -> None:
    found = prove_equal(source, data, [{"input": pixels(24, 64)}], "nhwc")
    assert found.agreement.max_relative_error > proof.ROUNDING, "else this tests nothing"
    assert found.reference == "float64"
    assert found.keras_error is not None
    assert found.agreement.max_relative_error < 8 * found.keras_error
    assert found.as_json()["keras_error"] == found.keras_error


def swap_channels(model: ir.Model) -> None:
    convolutions = [node for node in model.graph if node.op_type == "Conv"]
    weight = convolutions[len(convolutions) // 2].inputs[1]
    assert weight is not None
    assert weight.const_value is not None
    values = weight.const_value.numpy().copy()
    values[[0, 1]] = values[[1, 0]]
    weight.const_value = ir.tensor(values, name=weight.name)


def pad_the_other_side(model: ir.Model) -> None:
    for node in model.graph:
        pads = node.attributes.get("pads")
        if node.op_type == "Conv" and pads is not None:
            top, left, bottom, right = pads.as_ints()
            if top != bottom:
                node.attributes["pads"] = ir.AttrInt64s("pads", [bottom, right, top, left])
                return
    raise AssertionError("no convolution has one-sided padding")


@pytest.mark.parametrize("spoil", [swap_channels, pad_the_other_side])
def test_a_wrong_graph_is_refused(
    source: Source, data: bytes, spoil: Callable[[ir.Model], None]
) -> None:
    model = loaded(data)
    spoil(model)
    wrong = serialize.checked_bytes(model)
    with pytest.raises(ConversionError, match="not the same network") as caught:
        prove_equal(source, wrong, [{"input": pixels(24, 64)}], "nhwc")
    assert "report this" in str(caught.value.hint), "we are sure that it is our fault"


def test_an_epsilon_that_is_off_by_a_tenth_is_refused(
    keras: ModuleType, efficient: Any, source: Source
) -> None:
    norms = [x for x in efficient.layers if isinstance(x, keras.layers.BatchNormalization)]
    for norm in norms:
        norm.epsilon *= 1.1
    data = serialize.checked_bytes(graph(source))
    for norm in norms:
        norm.epsilon /= 1.1
    with pytest.raises(ConversionError, match="not the same network"):
        prove_equal(source, data, [{"input": pixels(24, 64)}], "nhwc")


def test_without_a_twin_other_batch_sizes_are_the_reference(
    source: Source, data: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise TypeError("a class that can't be made again")

    monkeypatch.setattr(proof, "twin_of", refuse)
    monkeypatch.setattr(proof, "ROUNDING", 0.0)
    found = prove_equal(source, data, [{"input": pixels(4, 64)}], "nhwc")
    assert found.reference == "other batch sizes"
    assert found.keras_error is not None


def cancelling(keras: ModuleType) -> Any:
    """(1e8 x + y) - 1e8 x: in float32, nothing of y is left."""
    layers = keras.layers
    inputs = keras.Input((6,))
    dense = layers.Dense(3)(inputs)
    large = layers.Dense(3, kernel_initializer=keras.initializers.Constant(1e6))(inputs)
    return keras.Model(inputs, layers.Subtract()([layers.Add()([large, dense]), large]))


def test_inputs_on_which_keras_itself_is_wrong_prove_nothing(keras: ModuleType) -> None:
    source = sources.wrap(cancelling(keras), "cancelling", "keras", "x", "0")
    data = serialize.checked_bytes(graph(source))
    other = np.random.default_rng(0).random((16, 6), np.float32)
    with pytest.raises(ConversionError) as caught:
        prove_equal(source, spoiled(data), [{"input": other}], "nhwc")
    assert "Keras itself is off by" in caught.value.message
    assert "report" not in str(caught.value.hint)


def loaded(data: bytes) -> ir.Model:
    return ir.from_proto(onnx.load_from_string(data))


def spoiled(data: bytes) -> bytes:
    model = loaded(data)
    for value in model.graph.initializers.values():
        assert value.const_value is not None
        array = value.const_value.numpy()
        if array.dtype == np.float32 and array.size == 18 and abs(array).max() < 100:
            value.const_value = ir.tensor(array * np.float32(1.5), name=value.name)
    return serialize.checked_bytes(model)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_a_network_in_half_precision_becomes_an_fp32_graph(
    keras: ModuleType, tmp_path: Path, policy: str
) -> None:
    layers = keras.layers
    half = keras.dtype_policies.DTypePolicy(policy)
    inputs = x = keras.Input((16, 16, 3))
    for width in (8, 12):
        x = layers.Conv2D(width, 3, dtype=half)(x)
        x = layers.ReLU(dtype=half)(layers.BatchNormalization(dtype=half)(x))
    x = layers.GlobalAveragePooling2D(dtype=half)(x)
    model = keras.Model(inputs, layers.Dense(5, dtype="float32")(x))
    path = networks.save(networks.shake_statistics(model), tmp_path / "half.keras")
    passport = pipeline.export(ExportConfig(path, "ort", tmp_path / "out")).passport
    assert "Cast" not in passport["graph"]["ops"]
    assert passport["passes"]["fold_batch_norm"]["applied"] == 2
    assert passport["check"]["max_relative_error"] < 1e-5, "against the same network in float32"
    own = passport["check"]["own_precision"]["max_relative_error"]
    assert 1e-5 < own < {"mixed_float16": 5e-3, "mixed_bfloat16": 4e-2}[policy]
