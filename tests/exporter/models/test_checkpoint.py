"""Half-precision checkpoints: what is halved, what is not, and that nothing else changes."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from exporter.errors import ExporterError
from exporter.models import checkpoint

pytestmark = pytest.mark.tf

CARD = {"preprocessing": "unit", "classes": ["a", "b"]}


@pytest.fixture
def model(keras: ModuleType) -> Any:
    """Every kind of weight that a zoo model has, none at its initial value, compiled."""
    keras.utils.set_random_seed(0)
    layers = keras.layers
    inputs = keras.Input((8, 8, 4), name="input")
    x = layers.Conv2D(8, 3, name="conv")(inputs)
    x = layers.BatchNormalization(name="bn")(x)
    x = layers.Conv2D(8, 3, groups=2, name="grouped")(x)
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    model = keras.Model(inputs, layers.Dense(3, name="logits")(x), name="small")
    rng = np.random.default_rng(0)
    for weight in model.weights:
        weight.assign(rng.uniform(0.1, 1, weight.shape))
    model.compile(keras.optimizers.SGD(0.1, momentum=0.9), "mse")
    model.optimizer.build(model.trainable_variables)
    return model


def test_kernels_are_rounded_to_half_and_vectors_untouched(
    keras: ModuleType, model: Any, tmp_path: Path
) -> None:
    # Smaller than half precision's least number: such a variance must survive.
    model.get_layer("bn").moving_variance.assign(np.full(8, 1e-9))
    checkpoint.save_half(model, tmp_path / "half.keras", CARD)
    loaded = keras.models.load_model(tmp_path / "half.keras")
    kernels = 0
    for old, new in zip(model.weights, loaded.weights, strict=True):
        assert new.dtype == "float32"
        before, after = old.numpy(), new.numpy()
        if before.ndim > 1:
            kernels += 1
            np.testing.assert_array_equal(after, before.astype(np.float16).astype(np.float32))
            assert (after != before).any()
        else:
            np.testing.assert_array_equal(after, before)
    assert kernels == 3


def stored(path: Path) -> dict[str, np.dtype[Any]]:
    import h5py

    found: dict[str, np.dtype[Any]] = {}

    def look(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset):
            found[name] = item.dtype

    with (
        zipfile.ZipFile(path) as archive,
        h5py.File(io.BytesIO(archive.read("model.weights.h5"))) as h5,
    ):
        h5.visititems(look)
    return found


def test_file_holds_half_kernels_float_vectors_and_no_optimizer(model: Any, tmp_path: Path) -> None:
    model.save(tmp_path / "full.keras")
    checkpoint.save_half(model, tmp_path / "half.keras", CARD)
    full, half = stored(tmp_path / "full.keras"), stored(tmp_path / "half.keras")
    assert any(name.startswith("optimizer") for name in full)
    assert set(half) == {name for name in full if not name.startswith("optimizer")}
    assert {str(dtype) for dtype in half.values()} == {"float16", "float32"}
    bn = [dtype for name, dtype in half.items() if name.startswith("layers/batch_norm")]
    assert [str(dtype) for dtype in bn] == ["float32"] * 4


def test_same_weights_give_the_same_bytes(keras: ModuleType, model: Any, tmp_path: Path) -> None:
    checkpoint.save_half(model, tmp_path / "one.keras", CARD)
    again = keras.models.clone_model(model)
    again.set_weights(model.get_weights())
    checkpoint.save_half(again, tmp_path / "two.keras", CARD)
    assert (tmp_path / "one.keras").read_bytes() == (tmp_path / "two.keras").read_bytes()


def test_saving_what_was_loaded_changes_nothing(
    keras: ModuleType, model: Any, tmp_path: Path
) -> None:
    checkpoint.save_half(model, tmp_path / "one.keras", CARD)
    loaded = keras.models.load_model(tmp_path / "one.keras")
    checkpoint.save_half(loaded, tmp_path / "two.keras", CARD)
    assert (tmp_path / "one.keras").read_bytes() == (tmp_path / "two.keras").read_bytes()


def test_memory_addresses_do_not_reach_the_file_and_sharing_survives() -> None:
    def policy(address: int) -> dict[str, Any]:
        return {"class_name": "DTypePolicy", "shared_object_id": address}

    def config(first: int, second: int) -> dict[str, Any]:
        layers = [{"class_name": "Dense", "shared_object_id": n} for n in (first, second, first)]
        return {"layers": layers, "dtype": policy(first)}

    settled = checkpoint._without_addresses(config(14_000, 999), {})
    assert [layer["shared_object_id"] for layer in settled["layers"]] == [1, 2, 1]
    assert settled["dtype"] == {"class_name": "DTypePolicy"}
    assert settled == checkpoint._without_addresses(config(5, 77), {})


def test_members_are_keras_own_and_the_card(model: Any, tmp_path: Path) -> None:
    checkpoint.save_half(model, tmp_path / "half.keras", CARD)
    with zipfile.ZipFile(tmp_path / "half.keras") as archive:
        assert set(archive.namelist()) == {
            "config.json",
            "exporter.json",
            "metadata.json",
            "model.weights.h5",
        }
        assert json.loads(archive.read("config.json"))["compile_config"] is None
    assert checkpoint.read_card(tmp_path / "half.keras") == CARD


def test_a_failed_save_keeps_the_old_file_and_leaves_no_rubbish(
    model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    (tmp_path / "half.keras").write_bytes(b"the old one")
    monkeypatch.setattr(checkpoint, "_halve", full)
    with pytest.raises(OSError, match="No space left"):
        checkpoint.save_half(model, tmp_path / "half.keras", CARD)
    assert [p.name for p in tmp_path.iterdir()] == ["half.keras"]
    assert (tmp_path / "half.keras").read_bytes() == b"the old one"


def test_card_of_any_other_keras_file_is_empty(model: Any, tmp_path: Path) -> None:
    model.save(tmp_path / "plain.keras")
    assert checkpoint.read_card(tmp_path / "plain.keras") == {}


def test_card_of_no_keras_file(tmp_path: Path) -> None:
    (tmp_path / "a.keras").write_bytes(b"something else")
    with pytest.raises(ExporterError, match=r"a\.keras is not a readable \.keras file"):
        checkpoint.read_card(tmp_path / "a.keras")


@pytest.mark.parametrize("content", [b"[1, 2", b"x" * 500])
def test_card_that_is_no_json(tmp_path: Path, content: bytes) -> None:
    with zipfile.ZipFile(tmp_path / "a.keras", "w") as archive:
        archive.writestr("exporter.json", content)
    with pytest.raises(ExporterError, match="not a readable"):
        checkpoint.read_card(tmp_path / "a.keras")


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_card_with_flipped_bits(tmp_path: Path, compression: int) -> None:
    path = tmp_path / "a.keras"
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("exporter.json", json.dumps(CARD))
    raw = bytearray(path.read_bytes())
    start = raw.index(b"exporter.json") + len(b"exporter.json")
    raw[start : start + 8] = bytes(255 - byte for byte in raw[start : start + 8])
    path.write_bytes(raw)
    with pytest.raises(ExporterError, match="not a readable"):
        checkpoint.read_card(path)
