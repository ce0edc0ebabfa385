"""Files of Keras 2 and HDF5 files: loaded, or refused with what to do.

``keras2/`` was written by ``keras2/make.py``, in an environment with tf_keras.
"""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from exporter import pipeline
from exporter.config import ExportConfig, Trust
from exporter.errors import ExporterError, WrongUse
from exporter.network import sources
from tests.exporter import networks

h5py = pytest.importorskip("h5py")  # some CI environments are without Keras
tf = pytest.importorskip("tensorflow")
pytestmark = pytest.mark.tf
KERAS_2 = Path(__file__).parent / "keras2"


def export(source: Path, tmp_path: Path) -> dict[str, Any]:
    config = ExportConfig(str(source), "ort", tmp_path / "out")
    return pipeline.export(config).passport


@pytest.mark.parametrize("suffix", [".h5", ".hdf5"])
def test_hdf5_of_keras_3(keras: ModuleType, tmp_path: Path, suffix: str) -> None:
    model = networks.plain(keras)
    model.save(tmp_path / "plain.h5")
    place = (tmp_path / "plain.h5").rename(tmp_path / f"plain{suffix}")
    source = sources.load(str(place))
    images = np.random.default_rng(0).random((2, 16, 16, 1), np.float32)
    np.testing.assert_array_equal(source.call((images,))[0], model(images, training=False))
    assert export(place, tmp_path)["passes"]["fold_batch_norm"]["applied"] == 1


def test_the_same_network_from_hdf5_and_a_saved_model_of_keras_2(tmp_path: Path) -> None:
    """The folder has the slot variables of a legacy optimizer, which nothing here can make."""
    folder = str(KERAS_2 / "with_optimizer")
    whole = sources.load(str(KERAS_2 / "whole.h5"))
    images = np.random.default_rng(0).random((4, 8, 8, 1), np.float32)
    (expected,) = whole.call((tf.constant(images),))
    (got,) = sources.load(folder).call((tf.constant(images),))
    np.testing.assert_allclose(got, expected, atol=1e-6)
    assert export(KERAS_2 / "whole.h5", tmp_path)["source"]["kind"] == "keras"


def test_a_saved_model_of_keras_2_exports(tmp_path: Path) -> None:
    passport = export(KERAS_2 / "with_optimizer", tmp_path)
    assert passport["passes"]["fold_batch_norm"]["applied"] == 1
    assert passport["check"]["label_flips"] == 0


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("weights.h5", "has weights but no network"),
        ("operations.h5", r"operations of Keras 2 \(TFOpLambda\)"),
        ("whole.keras", "was saved by Keras 2"),
    ],
)
def test_what_keras_3_cannot_load_says_what_to_do(name: str, said: str) -> None:
    with pytest.raises(WrongUse, match=said) as caught:
        sources.load(str(KERAS_2 / name))
    assert "save" in str(caught.value.hint)


def test_a_lambda_in_hdf5_is_code(keras: ModuleType, tmp_path: Path) -> None:
    x = keras.Input((4,))
    model = keras.Model(x, keras.layers.Lambda(lambda y: y * 2, name="code")(x))
    model.save(tmp_path / "code.h5")
    with pytest.raises(WrongUse, match=r"Lambda layers \(code\)"):
        sources.load(str(tmp_path / "code.h5"))
    source = sources.load(str(tmp_path / "code.h5"), trust=Trust(unsafe=True))
    np.testing.assert_array_equal(source.call((np.ones((1, 4), np.float32),))[0], [[2] * 4])


def _external_link(file: Any) -> None:
    file["model_weights/elsewhere"] = h5py.ExternalLink("secret.h5", "/weights")


def _external_storage(file: Any) -> None:
    file.create_dataset("outside", (4,), "f4", external=[("secret.bin", 0, 16)])


def _virtual(file: Any) -> None:
    layout = h5py.VirtualLayout((4,), "f4")
    layout[:] = h5py.VirtualSource("secret.h5", "weights", (4,))
    file.create_virtual_dataset("virtual", layout)


@pytest.mark.parametrize("reach_outside", [_external_link, _external_storage, _virtual])
def test_hdf5_that_reaches_into_other_files_is_refused(
    keras: ModuleType, tmp_path: Path, reach_outside: Any
) -> None:
    networks.plain(keras).save(tmp_path / "a.h5")
    with h5py.File(tmp_path / "a.h5", "a") as file:
        reach_outside(file)
    with pytest.raises(ExporterError, match="links to other data"):
        sources.load(str(tmp_path / "a.h5"))


@pytest.mark.parametrize("config", ["{", "[1]", '"text"', "[" * 100_000])
def test_damaged_hdf5_is_one_clear_error(tmp_path: Path, config: str) -> None:
    with h5py.File(tmp_path / "a.h5", "w", libver="latest") as file:
        file.attrs["model_config"] = config
    with pytest.raises(ExporterError, match="not a readable HDF5 file"):
        sources.load(str(tmp_path / "a.h5"))


def test_a_file_that_is_not_hdf5(tmp_path: Path) -> None:
    (tmp_path / "a.h5").write_text(json.dumps({}))
    with pytest.raises(ExporterError, match="not a readable HDF5 file"):
        sources.load(str(tmp_path / "a.h5"))


def _table(rows: Any) -> dict[str, Any]:
    return {"y": tf.matmul(rows, tf.ones((4, 3)))}


def test_signatures_of_plain_tensorflow(tmp_path: Path) -> None:
    module = tf.Module()
    module.go = tf.function(_table, input_signature=[tf.TensorSpec((None, 4), name="x")])
    tf.saved_model.save(module, str(tmp_path / "one"), signatures={"classify": module.go})
    (got,) = sources.load(str(tmp_path / "one")).call((tf.ones((2, 4)),))
    np.testing.assert_array_equal(got, np.full((2, 3), 4))
    both = {"a": module.go, "b": module.go}
    tf.saved_model.save(module, str(tmp_path / "two"), signatures=both)
    with pytest.raises(WrongUse, match="no signature 'serving_default', but a, b"):
        sources.load(str(tmp_path / "two"))
