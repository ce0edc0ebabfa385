"""Inputs of any size: fixed, bounded, or left open, and right at every size."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnxruntime
import pytest

from exporter import pipeline, targets
from exporter.artifact.folder import read
from exporter.config import ExportConfig, InputSize
from exporter.errors import ConversionError, WrongUse
from exporter.network import sources
from exporter.network.sizes import sized
from tests.exporter import networks

pytestmark = pytest.mark.tf
RANGE = InputSize((16, 16), (24, 32), (48, 40))


def any_size(keras: ModuleType) -> Any:
    """A mask and a class from images of any size, through a stride, a transpose and a resize."""
    layers = keras.layers
    inputs = keras.Input((None, None, 3))
    x = layers.Conv2D(6, 3, strides=2, padding="same")(inputs)
    x = layers.ReLU()(layers.BatchNormalization()(x))
    mask = layers.UpSampling2D()(layers.Conv2D(4, 3, padding="same")(x))
    label = layers.Dense(3)(layers.GlobalAveragePooling2D()(x))
    return networks.shake_statistics(keras.Model(inputs, {"mask": mask, "label": label}))


def classifier(keras: ModuleType, channels: int = 3) -> Any:
    layers = keras.layers
    inputs = keras.Input((None, None, channels))
    x = layers.ReLU()(layers.BatchNormalization()(layers.Conv2D(6, 3, strides=2)(inputs)))
    model = keras.Model(inputs, layers.Dense(3)(layers.GlobalAveragePooling2D()(x)))
    return networks.shake_statistics(model)


def sequence(keras: ModuleType) -> Any:
    inputs = keras.Input((None, 6))
    return keras.Model(inputs, keras.layers.Dense(2)(keras.layers.GRU(8)(inputs)))


def export(model: Any, tmp_path: Path, target: str = "onnx", **options: Any) -> Any:
    path = networks.save(model, tmp_path / "open.keras")
    return pipeline.export(ExportConfig(path, target, tmp_path / "out", **options))


@pytest.mark.parametrize("layout", ["nhwc", "nchw"])
def test_a_range_is_right_at_sizes_that_nobody_compared(
    keras: ModuleType, tmp_path: Path, layout: Any
) -> None:
    model = any_size(keras)
    artifact = export(model, tmp_path, input_size=RANGE, layout=layout)
    assert artifact.passport["passes"]["fold_batch_norm"]["applied"] == 1
    shape = artifact.passport["graph"]["inputs"][0]["shape"]
    assert shape[1:] == (["height", "width", 3] if layout == "nhwc" else [3, "height", "width"])
    session = onnxruntime.InferenceSession(tmp_path / "out" / "model.onnx")
    for size in ((18, 30), (41, 17)):
        x = np.random.default_rng(0).random((2, *size, 3), np.float32)
        fed = x if layout == "nhwc" else x.transpose(0, 3, 1, 2)
        got = dict(
            zip(("label", "mask"), session.run(["label", "mask"], {"input": fed}), strict=True)
        )
        expected = model(x, training=False)
        np.testing.assert_allclose(got["label"], expected["label"], atol=1e-5)
        np.testing.assert_allclose(got["mask"], expected["mask"], atol=1e-5)


def test_one_size_is_fixed_in_the_graph(keras: ModuleType, tmp_path: Path) -> None:
    found = export(any_size(keras), tmp_path, input_size=InputSize.parse("32x20")).passport
    assert found["graph"]["inputs"][0]["shape"] == ["batch", 32, 20, 3]
    outputs = {port["name"]: port["shape"] for port in found["graph"]["outputs"]}
    assert outputs == {"mask": ["batch", 32, 20, 4], "label": ["batch", 3]}
    assert found["source"]["input_size"] == "32x20"


def test_a_graph_that_is_right_at_one_size_only_is_refused(
    keras: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The smallest and the largest size are compared too."""
    from exporter.network import frontend

    original = frontend.to_onnx

    def at_one_size(source: Any, batch: int | None = None) -> Any:
        return original(sized(sources.load(source.name), InputSize.parse("24x32")), batch)

    monkeypatch.setattr(frontend, "to_onnx", at_one_size)
    with pytest.raises(
        (ConversionError, onnxruntime.capi.onnxruntime_pybind11_state.InvalidArgument)
    ):
        export(classifier(keras), tmp_path, input_size=RANGE)
    assert not (tmp_path / "out").exists()


def test_images_of_any_size_need_a_size(keras: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(WrongUse, match="takes images of any size") as caught:
        export(any_size(keras), tmp_path)
    assert "--input-size 224x224" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("size", "said"),
    [("32", r"has 2 open dimension\(s\), but"), ("8x8x8", "but --input-size 8x8x8")],
)
def test_a_size_that_does_not_fit(keras: ModuleType, tmp_path: Path, size: str, said: str) -> None:
    with pytest.raises(WrongUse, match=said):
        export(any_size(keras), tmp_path, input_size=InputSize.parse(size))


def test_a_network_of_a_fixed_size_takes_no_other(keras: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(WrongUse, match="have a fixed size already"):
        export(networks.plain(keras), tmp_path, input_size=RANGE)


@pytest.mark.parametrize(
    "text", ["", "axb", "0x4", "8x8:4x4:9x9", "8x8:9:9x9", "1:2", "8x8:9x9:9x8"]
)
def test_bad_sizes(text: str) -> None:
    with pytest.raises(WrongUse, match="bad input size"):
        InputSize.parse(text)


@pytest.mark.parametrize("text", ["224x224", "64x64:224x224:512x384", "100", "1:16:128"])
def test_sizes_as_text(text: str) -> None:
    assert str(InputSize.parse(text)) == text


def test_an_open_length_stays_open(keras: ModuleType, tmp_path: Path) -> None:
    model = sequence(keras)
    artifact = export(model, tmp_path, "ort")
    assert artifact.passport["graph"]["inputs"][0]["shape"] == ["batch", "steps", 6]
    session = onnxruntime.InferenceSession(tmp_path / "out" / "model.onnx")
    for steps in (1, 5, 40):
        x = np.random.default_rng(0).random((3, steps, 6), np.float32)
        (got,) = session.run(None, {"input": x})
        np.testing.assert_allclose(got, model(x, training=False), atol=1e-6)


def test_inputs_with_different_counts_of_open_lengths(keras: ModuleType, tmp_path: Path) -> None:
    layers = keras.layers
    steps, volumes = keras.Input((None, 6)), keras.Input((None, None, None, 4))
    pooled = [layers.GlobalAveragePooling1D()(steps), layers.GlobalAveragePooling3D()(volumes)]
    model = keras.Model([steps, volumes], layers.Dense(2)(layers.Concatenate()(pooled)))
    found = export(model, tmp_path).passport
    assert found["check"]["max_relative_error"] < 1e-5
    assert [port["shape"].count(6) for port in found["graph"]["inputs"]] == [1, 0]


def test_an_engine_needs_bounds(keras: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(WrongUse, match="needs the sizes of the network's open dim") as caught:
        export(sequence(keras), tmp_path, "trt")
    assert "--input-size 1:16:128" in str(caught.value.hint)


@pytest.mark.skipif(not importlib.util.find_spec("tensorrt_rtx"), reason="needs tensorrt-rtx")
def test_an_engine_is_built_for_the_range(keras: ModuleType, tmp_path: Path) -> None:
    passport = export(classifier(keras), tmp_path, "trt-rtx", input_size=RANGE).passport
    profile = {"min": [1, 16, 16, 3], "opt": [1, 24, 32, 3], "max": [32, 48, 40, 3]}
    assert passport["engine"]["profile"] == {"input": profile}


def test_int8_and_evaluation_use_the_usual_size(
    keras: ModuleType, tmp_path: Path, data: str
) -> None:
    from benchmarks.accuracy.measure import evaluate

    options = {"precision": "int8", "preprocess": "unit", "calibration_images": 16}
    artifact = export(
        classifier(keras, 1), tmp_path, "openvino", input_size=RANGE, data=data, **options
    )
    assert artifact.passport["preprocessing"]["resize"]["width"] == 32
    original, found = evaluate([read(artifact.path)], data)
    assert found.images == original.images
    with targets.open_artifact(artifact) as runner:
        x = np.zeros((1, 48, 40, 1), np.float32)
        assert runner.infer({"input": x})["logits"].shape == (1, 3)
