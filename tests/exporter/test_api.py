"""The Python API: a live model, data of every kind, typed results that show themselves."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import exporter
from exporter.data.samples import gather
from tests.conftest import striped_images
from tests.exporter import networks

tf = pytest.importorskip("tensorflow")  # Python 3.10 and 3.13 run the fast tests without it
pytestmark = pytest.mark.tf


@pytest.fixture(scope="module")
def pixels() -> tuple[np.ndarray, np.ndarray]:
    images, labels = striped_images(400, seed=0)
    return images.reshape(-1, 16, 16, 1), labels


@pytest.fixture(scope="module")
def train(pixels: Any) -> tuple[np.ndarray, np.ndarray]:
    return (pixels[0][:300] / 255).astype(np.float32), pixels[1][:300]


@pytest.fixture(scope="module")
def test(pixels: Any) -> tuple[np.ndarray, np.ndarray]:
    return (pixels[0][300:] / 255).astype(np.float32), pixels[1][300:]


@pytest.fixture(scope="module")
def model(keras: ModuleType, pixels: Any) -> Any:
    return networks.trained(keras, pixels[0][:300], pixels[1][:300])


@pytest.fixture(scope="module")
def int8(model: Any, train: Any, tmp_path_factory: pytest.TempPathFactory) -> exporter.Artifact:
    place = tmp_path_factory.mktemp("api") / "deep" / "int8"
    return exporter.export(
        model, to="ort", precision="int8", data=train, output=place, calibration_images=64
    )


def test_a_live_model_to_int8_and_back(
    int8: exporter.Artifact, model: Any, test: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    found = exporter.evaluate(int8, test, original=model)
    original, quantized = found.value
    assert original.images == 100
    assert quantized.against_keras.label_flips <= 2
    by_hand = (np.asarray(model(test[0], training=False)).argmax(1) == test[1]).mean()
    assert original.top1 == pytest.approx(by_hand)
    with exporter.load(int8.path).open() as engine:
        logits = engine.infer(test[0][:7])
    np.testing.assert_allclose(logits, model(test[0][:7], training=False), atol=0.5)
    assert json.dumps(found.to_dict())
    assert int8.to_dict()["source"]["kind"] == "live"
    assert capsys.readouterr().out == "", "nothing prints on its own"
    assert "top-1" in str(found)
    assert "ort, int8" in repr(int8)
    assert found._repr_html_().startswith("<pre")


def test_results_are_frozen(int8: exporter.Artifact) -> None:
    result = exporter.inspect(int8)
    for frozen in (int8, result):
        with pytest.raises(dataclasses.FrozenInstanceError):
            frozen.path = frozen.value = None  # type: ignore[misc]


def test_another_model_is_not_the_original(
    keras: ModuleType, int8: exporter.Artifact, model: Any, test: Any
) -> None:
    other = keras.models.clone_model(model)
    with pytest.raises(exporter.WrongUse, match="its weights differ"):
        exporter.evaluate(int8, test, original=other)
    with pytest.raises(exporter.WrongUse, match="made from a model in memory") as caught:
        exporter.evaluate(int8, test)
    assert "original=model" in str(caught.value.hint)


def test_a_saved_file_is_the_same_original(
    int8: exporter.Artifact, model: Any, test: Any, tmp_path: Path
) -> None:
    saved = networks.save(model, tmp_path / "saved.keras")
    for original in (saved, Path(saved)):
        (_, found) = exporter.evaluate(int8, test, original=original).value
        assert found.images == 100


class Batches:
    """A ``keras.utils.PyDataset``, made where Keras is loaded."""

    def __new__(cls, keras: ModuleType, x: np.ndarray, y: np.ndarray) -> Any:
        class Inner(keras.utils.PyDataset):  # type: ignore[name-defined,misc]
            def __len__(self) -> int:
                return -(-len(x) // 32)

            def __getitem__(self, index: int) -> Any:
                return x[index * 32 : index * 32 + 32], y[index * 32 : index * 32 + 32]

        return Inner()


def generator(x: np.ndarray, y: np.ndarray) -> Iterator[Any]:
    for start in range(0, len(x), 50):
        yield x[start : start + 50], y[start : start + 50], np.ones(len(x[start : start + 50]))


KINDS: dict[str, Callable[[ModuleType, Any, Any], Any]] = {
    "arrays": lambda _, x, y: (x, y),
    "one-hot": lambda _, x, y: (x, np.eye(3)[y]),
    "column": lambda _, x, y: (x, y[:, None].astype(float)),
    "tf.data": lambda _, x, y: tf.data.Dataset.from_tensor_slices((x, y)).batch(32),
    "PyDataset": Batches,
    "generator": lambda _, x, y: generator(x, y),
    "list of batches": lambda _, x, y: [(x[:10], y[:10]), (x[10:], y[10:])],
    "tensors": lambda _, x, y: (tf.constant(x), tf.constant(y)),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_data_is_the_same_data(keras: ModuleType, train: Any, kind: str) -> None:
    found = gather(KINDS[kind](keras, *train))
    np.testing.assert_array_equal(found.inputs, train[0])
    np.testing.assert_array_equal(found.labels, train[1])
    compared, measured = found.part("test"), found.part("train")
    assert (len(compared), len(measured)) == (64, 236)
    assert not np.shares_memory(compared.inputs, measured.inputs[1:])


def test_data_without_labels(keras: ModuleType, int8: exporter.Artifact, train: Any) -> None:
    found = gather(train[0])
    assert found.labels is None
    np.testing.assert_array_equal(found.inputs, train[0])
    with pytest.raises(exporter.WrongUse, match="has no labels"):
        exporter.evaluate(int8, train[0])


def with_value(x: np.ndarray, value: float) -> np.ndarray:
    changed = x.copy()
    changed[7, 0, 0, 0] = value
    return changed


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (lambda x, y: iter(()), "the data yields nothing"),
        (lambda x, y: [x[:4], x[:4, :8]], r"batches differ: .*\(16, 16, 1\).*after 4 samples"),
        (lambda x, y: [x[:4], x[:4].astype(np.float64)], "batches differ: .*float64"),
        (lambda x, y: with_value(x, np.nan), "sample 7 of the data has a value that is NaN"),
        (lambda x, y: [x[:5], with_value(x, np.inf)], "sample 12 of the data has a value"),
        (lambda x, y: (x, y[:-1]), "one class for each of 300 samples"),
        (lambda x, y: (x, y + 0.5), "one class for each"),
        (lambda x, y: [(x, y), x], "some batches have labels"),
        (lambda x, y: 3, "can't read data from int"),
        (lambda x, y: {"a": x, "b": x}.items(), "has to be an array|2 inputs"),
    ],
)
def test_bad_data_is_one_clear_error_and_nothing_is_written(
    model: Any, train: Any, tmp_path: Path, given: Any, said: str
) -> None:
    with pytest.raises(exporter.WrongUse, match=said):
        exporter.export(model, to="ort", data=given(*train), output=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_samples_of_another_shape(model: Any, train: Any, tmp_path: Path) -> None:
    with pytest.raises(
        exporter.WrongUse, match=r"takes samples of \(16, 16, 1\), but .* \(8, 16, 1\)"
    ):
        exporter.export(model, to="ort", data=train[0][:, :8], output=tmp_path / "out")


def test_labels_outside_of_the_classes(int8: exporter.Artifact, model: Any, test: Any) -> None:
    with pytest.raises(exporter.WrongUse, match="has labels 2 to 4, but"):
        exporter.evaluate(int8, (test[0], test[1] + 2), original=model)


def scaled(batch: np.ndarray) -> np.ndarray:
    return batch.astype(np.float32) / 255


def flipped(batch: np.ndarray) -> np.ndarray:
    return 1 - batch.astype(np.float32) / 255


def test_a_function_is_recorded_and_asked_for_again(
    model: Any, pixels: Any, tmp_path: Path
) -> None:
    x, y = pixels
    artifact = exporter.export(
        model, to="onnx", data=(x[:300], y[:300]), preprocess=scaled, output=tmp_path / "out"
    )
    recorded = artifact.passport["preprocessing"]
    assert recorded["name"] == "given"
    assert recorded["function"]["name"] == "scaled"
    assert artifact.passport["check"]["data"] == "data given in Python"
    test = (x[300:], y[300:])
    for function, said in ((None, "none was given"), (flipped, "flipped differs from it")):
        with pytest.raises(exporter.WrongUse, match=said):
            exporter.evaluate(artifact, test, preprocess=function, original=model)
    rows = exporter.evaluate(artifact, test, preprocess=scaled, original=model).value
    assert rows[1].against_keras.label_flips == 0


def test_named_preprocessing_of_images(model: Any, pixels: Any, tmp_path: Path) -> None:
    """Images in uint8 and a name: the artifact then takes image files too."""
    artifact = exporter.export(
        model, to="ort", data=pixels[0], preprocess="unit", output=tmp_path / "out"
    )
    assert artifact.passport["preprocessing"]["name"] == "unit"
    rows = exporter.evaluate(artifact, pixels, original=model).value
    assert rows[1].against_keras.label_flips == 0


def test_signals_to_int8(keras: ModuleType, tmp_path: Path) -> None:
    """A network of 1-D convolutions: its samples are no images."""
    signal = networks.signal(keras)
    x = np.random.default_rng(0).random((200, *signal.inputs[0].shape[1:]), np.float32)
    artifact = exporter.export(
        signal, to="ort", precision="int8", data=x, output=tmp_path / "out", calibration_images=64
    )
    assert artifact.passport["int8"]
    assert artifact.passport["graph"]["ops"]["QuantizeLinear"] > 3
    expected = np.asarray(signal(x[:8], training=False))
    with artifact.open() as engine:
        error = np.abs(engine.infer(x[:8]) - expected).max()
    assert error < 0.05 * np.abs(expected).max()


def recurrent(layers: Any, x: Any) -> Any:
    x = layers.ReLU()(layers.BatchNormalization()(layers.Conv1D(6, 3, padding="same")(x)))
    return layers.LSTM(5)(x)


def attentive(layers: Any, x: Any) -> Any:
    x = layers.Dense(8)(x)
    y = layers.LayerNormalization()(x)
    x = layers.Add()([x, layers.MultiHeadAttention(2, 4)(y, y)])
    y = layers.Dense(16, activation="gelu")(layers.LayerNormalization()(x))
    return layers.GlobalAveragePooling1D()(layers.Add()([x, layers.Dense(8)(y)]))


@pytest.mark.parametrize("body", [recurrent, attentive])
@pytest.mark.parametrize(
    ("target", "precision", "most"), [("ort", "int8", 0.1), ("onnx", "fp16", 0.01)]
)
def test_sequences_in_low_precision(
    keras: ModuleType, tmp_path: Path, body: Any, target: str, precision: str, most: float
) -> None:
    keras.utils.set_random_seed(0)
    inputs = keras.Input((12, 5))
    model = keras.Model(inputs, keras.layers.Dense(2)(body(keras.layers, inputs)))
    x = np.random.default_rng(0).random((200, 12, 5), np.float32)
    artifact = exporter.export(
        model, target, precision=precision, data=x, output=tmp_path / "out", calibration_images=64
    )
    if precision == "int8":
        assert artifact.passport["graph"]["ops"]["QuantizeLinear"] > 2
    expected = np.asarray(model(x[:32], training=False))
    with artifact.open() as engine:
        error = np.abs(engine.infer(x[:32]) - expected).max() / np.abs(expected).max()
    assert 0 < error < most


def test_an_engine_that_computes_something_else_is_refused(
    keras: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As OpenVINO 2026.4 does with some attention, where the graph is right."""
    from exporter.targets.openvino import OpenVinoRunner

    right = OpenVinoRunner.infer

    def wrong(self: Any, feeds: Any) -> Any:
        return {name: x[:, ::-1] for name, x in right(self, feeds).items()}

    monkeypatch.setattr(OpenVinoRunner, "infer", wrong)
    model, x = networks.signal(keras), np.random.default_rng(0)
    data = x.random((200, *model.inputs[0].shape[1:]), np.float32)
    options = {"precision": "int8", "data": data, "calibration_images": 64}
    with pytest.raises(exporter.ConversionError, match="openvino computes this INT8 graph wrong"):
        exporter.export(model, to="openvino", output=tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_several_inputs_and_outputs(keras: ModuleType, tmp_path: Path) -> None:
    layers = keras.layers
    a, b = keras.Input((4,), name="a"), keras.Input((3,), name="b")
    joined = layers.Concatenate()([a, b])
    model = keras.Model({"a": a, "b": b}, {"x": layers.Dense(2)(joined), "y": layers.Dense(5)(a)})
    artifact = exporter.export(model, to="ort", output=tmp_path / "out")
    given = {"a": np.ones((2, 4)), "b": np.zeros((2, 3))}
    with artifact.open() as engine:
        found = engine.infer(given)
        with pytest.raises(exporter.WrongUse, match="the inputs are a, b, but a were given"):
            engine.infer(given["a"])
    expected = model(given, training=False)
    for name in ("x", "y"):
        np.testing.assert_allclose(found[name], expected[name], atol=1e-5)


def test_bench_saves_the_live_model_for_its_processes(int8: exporter.Artifact, model: Any) -> None:
    found = exporter.bench(
        int8, original=model, batches=(1,), seconds=0.05, warm_up_s=0.2, threads=1
    )
    engines = {row.engine for row in found.value.rows}
    assert engines == {"keras", str(int8.path)}
    assert all(row.error is None for row in found.value.rows), found.value.rows
    assert "baseline" in str(found)


def test_sensitivity_of_a_live_model(model: Any, train: Any) -> None:
    found = exporter.sensitivity(model, data=train, images=64, calibration_images=64)
    assert len(found.to_dict()["layers"]) == 3
    assert "SQNR" in str(found)


def test_check_against_a_baseline(model: Any, pixels: Any, tmp_path: Path, data: str) -> None:
    from click.testing import CliRunner

    from exporter.cli.main import main

    saved = networks.save(model, tmp_path / "mine.keras")
    artifact = exporter.export(saved, to="ort", preprocess="unit", output=tmp_path / "out")
    arguments = ["check", "--baseline", str(tmp_path / "b.json"), "--update", "--data", data]
    assert CliRunner().invoke(main, [*arguments, str(artifact.path)]).exit_code == 0
    found = exporter.check(artifact, tmp_path / "b.json")
    (checked,) = found.value
    assert not checked.drifted
    assert "baseline" in str(found)


def test_doctor_and_inspect(int8: exporter.Artifact) -> None:
    assert "targets" in exporter.doctor().to_dict()
    assert "ort" in str(exporter.doctor())
    assert "ort, int8" in str(exporter.inspect(int8.path))


def test_a_request_as_one_object_still_works(tmp_path: Path) -> None:
    steps: list[str] = []
    config = exporter.ExportConfig("resnet18", "onnx", tmp_path / "out", weights="random")
    exporter.export(config, lambda stage, *_: steps.append(stage))
    assert "export" in steps


def test_another_backend_is_named_before_any_work(
    keras: ModuleType, model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    with pytest.raises(exporter.Missing, match="here it runs on 'jax'") as caught:
        exporter.export(model, to="ort")
    assert "model.save" in str(caught.value.hint)


def test_wrong_use(model: Any) -> None:
    with pytest.raises(exporter.WrongUse, match="name a target"):
        exporter.export(model)
    with pytest.raises(exporter.WrongUse, match="unknown target 'tensorflow'"):
        exporter.export(model, to="tensorflow")
    with pytest.raises(exporter.WrongUse, match="a function can't preprocess"):
        exporter.export(model, to="ort", data="fashion-mnist", preprocess=scaled)


def test_import_is_light() -> None:
    """It must not load what only some commands need."""
    heavy = {"numpy", "tensorflow", "rich", "onnx"}
    code = f"import sys, exporter; print(sorted({heavy} & {{*sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
