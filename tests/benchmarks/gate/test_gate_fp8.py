"""The gate on FP8: damaged scales and numbers are caught, where they are, by what they break."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner, Result
from onnx import numpy_helper

from exporter.artifact import folder as artifact
from exporter.cli.main import main
from tests.conftest import striped_images, write_photos
from tests.exporter import networks

pytestmark = pytest.mark.tf


def network(keras: ModuleType) -> Any:
    """Two convolutions that FP8 takes."""
    keras.utils.set_random_seed(0)
    layers = keras.layers
    x = inputs = keras.Input((16, 16, 1), name="input")
    x = layers.ReLU()(layers.Conv2D(16, 3, padding="same", name="stem")(x))
    x = layers.ReLU(name="relu_first")(layers.Conv2D(16, 3, padding="same", name="first")(x))
    x = layers.ReLU()(layers.Conv2D(32, 3, padding="same", name="second")(x))
    x = layers.GlobalAveragePooling2D()(x)
    return networks.shake_statistics(keras.Model(inputs, layers.Dense(3, name="head")(x)))


def run(*args: object) -> Result:
    result = CliRunner().invoke(main, [str(arg) for arg in args])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


@pytest.fixture(scope="module")
def world(keras: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An FP8 artefact and the baseline of it."""
    folder = tmp_path_factory.mktemp("gate-fp8")
    write_photos(folder / "images" / "train", *striped_images(96))
    write_photos(folder / "images" / "test", *striped_images(96, seed=1))
    data = f"folder:{folder / 'images'}"
    network(keras).save(folder / "net.keras")
    done = run(
        *("export", folder / "net.keras", "--to", "onnx", "--precision", "fp8"),
        *("--preprocess", "unit", "--data", data, "--calibration-images", 48),
        *("-o", folder / "base"),
    )
    assert done.exit_code == 0, done.output
    baseline = ("--baseline", folder / "baseline.json")
    made = run("check", *baseline, folder / "base", "--update", "--data", data)
    assert made.exit_code == 0, made.output
    return folder


def drifts(world: Path, output: str) -> dict[str, str]:
    done = run("check", "--baseline", world / "baseline.json", world / output, "--json")
    (result,) = json.loads(done.stdout)["results"]
    assert done.exit_code == (3 if result["drifted"] else 0), done.output
    found = {one["figure"]: one["detail"] for one in result["findings"]}
    return {name: found[name] for name in result["drifted"]}


def broken(world: Path, output: str, change: Callable[[onnx.ModelProto], None]) -> dict[str, str]:
    """Change the baseline's own graph, seal it as if it had been exported so, and check."""
    folder = world / output
    shutil.copytree(world / "base", folder)
    passport = json.loads((folder / "passport.json").read_text())
    (folder / "passport.json").unlink()
    model = onnx.load(folder / "model.onnx")
    change(model)
    onnx.save(model, folder / "model.onnx")
    artifact.seal(folder, passport)
    return drifts(world, output)


def edit(model: onnx.ModelProto, name: str, change: Callable[[np.ndarray], np.ndarray]) -> None:
    (tensor,) = [one for one in model.graph.initializer if one.name == name]
    array = numpy_helper.to_array(tensor)
    changed = change(array.astype(np.float32)).astype(array.dtype)
    made = onnx.helper.make_tensor(name, tensor.data_type, array.shape, changed.tobytes(), raw=True)
    tensor.CopyFrom(made)


def quantizers(model: onnx.ModelProto, layer: str) -> tuple[onnx.NodeProto, onnx.NodeProto]:
    """The Q of a convolution's input and the DQ of its weight."""
    makers = {name: node for node in model.graph.node for name in node.output}
    (conv,) = [
        node
        for node in model.graph.node
        if node.op_type == "Conv"
        and any(each.key == "keras_layer" and each.value == layer for each in node.metadata_props)
    ]
    dequantize = makers[conv.input[0]]
    return makers[dequantize.input[0]], makers[conv.input[1]]


def test_the_baseline_names_it_and_it_passes(world: Path) -> None:
    content = (world / "baseline.json").read_text()
    assert "net/onnx/fp8+fp16/fp8/8-bit" in content
    assert drifts(world, "base") == {}


def test_a_damaged_activation_scale(world: Path) -> None:
    tensor = ""

    def change(model: onnx.ModelProto) -> None:
        nonlocal tensor
        quantize, _ = quantizers(model, "second")
        tensor = quantize.input[0]
        edit(model, quantize.input[1], lambda scale: scale * 1.05)

    caught = broken(world, "scale", change)
    assert caught["ranges"].startswith(f"{tensor}: ")
    assert "(5.0%)" in caught["ranges"]
    assert "weights" not in caught


def test_a_damaged_weight_scale(world: Path) -> None:

    def change(model: onnx.ModelProto) -> None:
        edit(model, quantizers(model, "first")[1].input[1], lambda scale: scale * 1.05)

    caught = broken(world, "weight-scale", change)
    # FP16's rounding of the scales moves it by up to 0.05% of itself either way.
    assert re.search(r"Keras layer 'first'\): weight moved by (4\.9|5\.0)", caught["weights"])
    assert "'second'" not in caught["weights"]
    assert "ranges" not in caught


def test_swapped_channels(world: Path) -> None:

    def change(model: onnx.ModelProto) -> None:
        order = [1, 0, *range(2, 32)]
        edit(model, quantizers(model, "second")[1].input[0], lambda weight: weight[order])

    caught = broken(world, "channels", change)
    assert "(Keras layer 'second'): weight moved by" in caught["weights"]
    assert "'first'" not in caught["weights"]


def test_a_pair_that_is_gone(world: Path) -> None:

    def change(model: onnx.ModelProto) -> None:
        quantize, _ = quantizers(model, "second")
        (dequantize,) = [n for n in model.graph.node if n.input[0] == quantize.output[0]]
        for node in model.graph.node:
            for index, name in enumerate(node.input):
                if name == dequantize.output[0]:
                    node.input[index] = quantize.input[0]
        model.graph.node.remove(dequantize)
        model.graph.node.remove(quantize)

    assert "qdq" in broken(world, "pair", change)
