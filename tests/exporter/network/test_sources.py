"""Networks as strangers save them: each case here once ended in a stack trace or a wrong name."""

from __future__ import annotations

import zipfile
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from exporter import pipeline
from exporter.config import Batch, ExportConfig
from exporter.errors import ConversionError, ExporterError, WrongUse
from exporter.network import sources
from tests.exporter import networks

pytestmark = pytest.mark.tf


def export(path: str, tmp_path: Path, **options: Any) -> Any:
    return pipeline.export(ExportConfig(path, target="ort", output=tmp_path / "out", **options))


def test_a_sequential_model(keras: ModuleType, tmp_path: Path) -> None:
    layers = [keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(3)]
    path = networks.save(keras.Sequential(layers), tmp_path / "sequential.keras")
    assert export(path, tmp_path).passport["graph"]["outputs"][0]["name"] == "logits"


def test_dict_inputs(keras: ModuleType, tmp_path: Path) -> None:
    inputs = {"b": keras.Input((4,), name="b"), "a": keras.Input((4,), name="a")}
    x = keras.layers.Subtract()([inputs["b"], inputs["a"]])
    model = keras.Model(inputs, keras.layers.Dense(2)(x))
    # Compared with Keras on the way, so a mixed-up order can't pass.
    passport = export(networks.save(model, tmp_path / "dict.keras"), tmp_path).passport
    assert {port["name"] for port in passport["graph"]["inputs"]} == {"a", "b"}


def test_whole_number_inputs(keras: ModuleType, tmp_path: Path, tiny_data: str) -> None:
    inputs = keras.Input((16, 16, 1), dtype="uint8")
    x = keras.layers.Flatten()(keras.layers.Rescaling(1 / 255)(inputs))
    path = networks.save(keras.Model(inputs, keras.layers.Dense(3)(x)), tmp_path / "u8.keras")
    assert export(path, tmp_path, data=tiny_data).passport["check"]["images"] == 64
    with pytest.raises(WrongUse, match="trained with preprocessing 'raw'"):
        sources.load(path, preprocessing="unit")


def test_a_layer_that_makes_two_outputs(keras: ModuleType, tmp_path: Path) -> None:
    inputs = keras.Input((4,))
    dense = keras.layers.Dense(3, name="twice")
    model = keras.Model(inputs, [dense(inputs), dense(inputs * 2.0)])
    source = sources.load(networks.save(model, tmp_path / "twice.keras"))
    assert [port.name for port in source.outputs] == ["twice", "twice_1"]
    export(str(tmp_path / "twice.keras"), tmp_path)


def test_default_layer_names_are_not_mixed_up(keras: ModuleType, tmp_path: Path) -> None:
    from exporter.network import frontend

    inputs = x = keras.Input((8, 8, 1))
    for width in (2, 3, 4):
        name = "conv2d" if width == 2 else f"conv2d_{width - 2}"
        x = keras.layers.Conv2D(width, 3, name=name)(x)
    path = networks.save(keras.Model(inputs, x), tmp_path / "names.keras")
    model = frontend.to_onnx(sources.load(path))
    pipeline.run_passes(model, "nhwc")
    named = {
        node.metadata_props[frontend.LAYER_KEY]: node.inputs[1].shape[0]  # type: ignore[index]
        for node in model.graph
        if node.op_type == "Conv"
    }
    assert named == {"conv2d": 2, "conv2d_1": 3, "conv2d_2": 4}


def test_a_batch_size_of_its_own_is_kept_or_refused(keras: ModuleType, tmp_path: Path) -> None:
    inputs = keras.Input(batch_shape=(2, 4))
    model = keras.Model(inputs, keras.layers.Dense(3)(inputs))
    path = networks.save(model, tmp_path / "two.keras")
    with pytest.raises(WrongUse, match="batch size of 2, but --batch is 4"):
        export(path, tmp_path, batch=Batch(4, 4, 4))
    passport = export(path, tmp_path).passport
    assert passport["graph"]["inputs"][0]["shape"] == [2, 4]
    assert passport["batch"] == {"min": 2, "opt": 2, "max": 2}
    assert passport["check"]["images"] == 64


def test_a_range_of_batches_is_refused_where_nothing_keeps_it(tmp_path: Path) -> None:
    with pytest.raises(WrongUse, match="does not support a range"):
        export("resnet18", tmp_path, batch=Batch(1, 2, 4))


def test_logits_that_are_nan_prove_nothing(keras: ModuleType, tmp_path: Path) -> None:
    inputs = keras.Input((4,))
    model = keras.Model(inputs, keras.layers.Dense(3, name="d")(inputs))
    model.get_layer("d").kernel.assign(np.full((4, 3), np.nan))
    with pytest.raises(ConversionError, match="is not finite in Keras itself"):
        export(networks.save(model, tmp_path / "nan.keras"), tmp_path)


def test_a_table_that_begins_with_scaling_needs_no_images(
    keras: ModuleType, tmp_path: Path
) -> None:
    inputs = keras.Input((1,))
    x = keras.layers.Dense(2)(keras.layers.Rescaling(0.5)(inputs))
    passport = export(
        networks.save(keras.Model(inputs, x), tmp_path / "table.keras"), tmp_path
    ).passport
    assert passport["check"]["data"].startswith("random inputs")


def test_a_wider_network_does_not_pass_as_another(keras: ModuleType, tmp_path: Path) -> None:
    """Both have the same layers by name; only the shapes tell."""
    from exporter.models import zoo

    path = networks.save(zoo.build("resnext26_16x4d", image_size=32), tmp_path / "narrow.keras")
    with pytest.raises(WrongUse, match="another network than resnext26_32x4d"):
        sources.load("resnext26_32x4d", weights=path)
    assert sources.load("resnext26_16x4d", weights=path).inputs[0].shape == (None, 32, 32, 1)


@pytest.mark.parametrize("member", ["config.json", "exporter.json"])
@pytest.mark.parametrize("damage", ["bytes", "nesting", "no object"])
def test_damage_inside_the_archive(
    keras: ModuleType, tmp_path: Path, member: str, damage: str
) -> None:
    path = Path(networks.save(networks.plain(keras), tmp_path / "plain.keras"))
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    content = {"bytes": b"x" * 4000, "nesting": b"[" * 200_000, "no object": b"[1]"}[damage]
    members[member] = content
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    if damage == "bytes":
        with zipfile.ZipFile(path) as archive:
            info = archive.getinfo(member)
        raw = bytearray(path.read_bytes())
        start = info.header_offset + 30 + len(info.filename)
        raw[start : start + 8] = b"\xff" * 8
        path.write_bytes(raw)
    with pytest.raises(ExporterError, match="not a readable"):
        sources.load(str(path))


def test_saved_model_outputs_keep_their_order(keras: ModuleType, tmp_path: Path) -> None:
    inputs = keras.Input((4,))
    model = keras.Model(inputs, [keras.layers.Dense(n + 1)(inputs) for n in range(11)])
    source = sources.load(networks.save(model, tmp_path / "eleven"))
    assert [port.shape[-1] for port in source.outputs] == list(range(1, 12))


def test_a_saved_model_of_text_is_refused(keras: ModuleType, tmp_path: Path) -> None:
    import tensorflow as tf

    module = tf.Module()
    spec = tf.TensorSpec((None,), tf.string, name="text")
    module.f = tf.function(lambda text: {"n": tf.strings.length(text)}, input_signature=[spec])
    tf.saved_model.save(module, str(tmp_path / "text"), signatures=module.f)
    with pytest.raises(WrongUse, match="'text' is string"):
        sources.load(str(tmp_path / "text"))


def test_names_of_outputs_stay_apart() -> None:
    """A layer called twice gets a number; another layer may have that name already."""
    names = ["dense_2", "dense", "dense", "dense_1", "dense"]
    found = list(sources._described([np.zeros(1)] * 5, names))
    assert found == ["dense_2", "dense", "dense_3", "dense_1", "dense_4"]
