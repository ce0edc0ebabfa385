"""``--max-drop`` and ``exporter sensitivity`` the whole way, from a Keras network."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner

from calibration.params import load
from exporter.artifact import folder as artifact
from exporter.cli.main import main
from exporter.config import ExportConfig
from exporter.errors import WrongUse

LOUD = 1e4


def run(*args: object) -> Any:
    result = CliRunner().invoke(main, [str(arg) for arg in args])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def ruined(keras: ModuleType, images: np.ndarray) -> Any:
    """One channel of what `ruined` reads is 10,000 times the others; every class comes up."""
    keras.utils.set_random_seed(0)
    layers = keras.layers
    inputs = keras.Input((16, 16, 1), name="input")
    x = layers.Conv2D(8, 3, padding="same", activation="relu", name="first")(inputs)
    x = layers.Conv2D(8, 3, strides=4, activation="relu", name="ruined")(x)
    model = keras.Model(inputs, layers.Dense(3, name="head")(layers.Flatten()(x)))
    for name, factor, at in (
        ("first", LOUD, (..., 0)),
        ("ruined", 1 / LOUD, (..., 0, slice(None))),
    ):
        kernel = model.get_layer(name).kernel
        value = np.array(kernel)
        value[at] *= factor
        kernel.assign(value)
    model.get_layer("head").bias.assign(-np.asarray(model(images / 255.0)).mean(0))
    return model


@pytest.fixture
def work(keras: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The network, and images labelled by what it says of them."""
    from PIL import Image

    monkeypatch.chdir(tmp_path)
    images = np.random.default_rng(0).integers(0, 256, (160, 16, 16, 1)).astype(np.float32)
    model = ruined(keras, images)
    model.save(tmp_path / "ruined.keras")
    labels = np.asarray(model(images / 255.0)).argmax(-1)
    for i, (image, label) in enumerate(zip(images, labels, strict=True)):
        folder = tmp_path / "images" / ("train" if i < 128 else "test") / str(label)
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image[..., 0].astype(np.uint8)).save(folder / f"{i}.png")
    return tmp_path


COMMON = ("--preprocess", "unit", "--data", "folder:images", "--calibration-images", 32)
INT8 = ("export", "ruined.keras", "--to", "onnx", "--precision", "int8", *COMMON)


@pytest.mark.tf
def test_the_ruined_layer_stays_in_float_and_the_passport_says_why(work: Path) -> None:
    options = ("--max-drop", 15, "--held-out-images", 64)
    done = run(*INT8, *options, "-o", "out")
    assert done.exit_code == 0, done.stderr
    assert "ruined: INT8 would lose" in done.stdout
    found = artifact.read(work / "out")
    record = found.passport["int8"]["max_drop"]
    (kept,) = record["kept"]
    assert kept["keras_layer"] == "ruined"
    assert (record["points"], record["images"], record["allowed_images"]) == (15, 64, 9)
    assert record["lost_images"] <= 9 < kept["lost_images_without"]
    graph = onnx.load(found.file("model.onnx")).graph
    weights = {node.name: node.input[1] for node in graph.node if node.op_type in ("Conv", "Gemm")}
    plain = {tensor.name for tensor in graph.initializer}
    assert [name for name, weight in weights.items() if weight in plain] == [kept["node"]]
    listed = json.loads(found.file("sensitivity.json").read_text())
    assert listed["layers"][0]["keras_layer"] == "ruined"
    assert len(listed["layers"]) == 3

    # Ranges a millionth of what they were ruin every layer: no choice of layers helps.
    params = load(found.file("calibration.json"))
    tiny = {
        name: replace(one, amax=one.amax / 1e6, low=one.low / 1e6, high=one.high / 1e6)
        for name, one in params.tensors.items()
    }
    replace(params, tensors=tiny).save(work / "tiny.json")
    refused = run(*INT8, *options, "--calibration", "tiny.json", "-o", "no")
    assert refused.exit_code == 3, refused.output
    assert "can't be held: the closest of" in refused.stderr
    assert not (work / "no").exists()


@pytest.mark.tf
def test_recovery_leaves_what_stays_in_float_as_it_was(work: Path) -> None:
    assert run("export", "ruined.keras", "--to", "onnx", *COMMON[:4], "-o", "fp32").exit_code == 0
    options = ("--max-drop", 15, "--held-out-images", 64, "--recovery", "rounding,bias")
    done = run(*INT8, *options, "-o", "out")
    assert done.exit_code == 0, done.stderr
    found = artifact.read(work / "out")
    int8 = found.passport["int8"]
    assert int8["recovery"] == {"rounding": 2, "bias": 2}
    assert found.passport["passes"]["restore_weights"]["applied"] == 1
    (kept,) = (row["node"] for row in int8["max_drop"]["kept"])

    def constants(folder: Path) -> list[np.ndarray]:
        graph = onnx.load(folder / "model.onnx").graph
        arrays = {one.name: onnx.numpy_helper.to_array(one) for one in graph.initializer}
        (node,) = [node for node in graph.node if node.name == kept]
        return [arrays[name] for name in node.input[1:]]

    for now, before in zip(constants(work / "out"), constants(work / "fp32"), strict=True):
        np.testing.assert_array_equal(now, before)


@pytest.mark.tf
def test_the_sensitivity_command_ranks_and_draws(work: Path) -> None:
    done = run(
        "sensitivity",
        "ruined.keras",
        *COMMON,
        *("--scheme", "tensorrt", "--images", 48, "-o", "layers.png", "--json"),
    )
    assert done.exit_code == 0, done.stderr
    result = json.loads(done.stdout)
    assert (result["scheme"], result["images"]) == ("tensorrt", 48)
    assert result["layers"][0]["keras_layer"] == "ruined"
    macs = {layer["keras_layer"]: layer["macs"] for layer in result["layers"]}
    assert macs == {"first": 9 * 8 * 256, "ruined": 9 * 8 * 8 * 16, "head": 8 * 16 * 3}
    assert (work / "layers.png").read_bytes()[:4] == b"\x89PNG"


@pytest.mark.parametrize("points", [-0.1, float("nan"), float("inf"), 101])
def test_bad_budgets_are_refused(points: float) -> None:
    with pytest.raises(WrongUse, match="0 to 100"):
        ExportConfig("resnet18", "ort", Path("out"), precision="int8", max_drop=points)


def test_a_budget_without_int8_is_a_conflict() -> None:
    refused = run("export", "resnet18", "--to", "ort", "--max-drop", "0.1")
    assert refused.exit_code == 2
    assert "--max-drop is for INT8 and FP8, and --precision is fp32" in refused.stderr
    refused = run("sensitivity", "resnet18", "--images", "0")
    assert refused.exit_code == 2
    refused = run("sensitivity", "resnet18", "-o", "layers.doc")
    assert refused.exit_code == 2
    assert ".png, .svg, .pdf" in refused.stderr
