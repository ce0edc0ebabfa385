"""Classes of the user's own: loaded on --import only, and named if they are missing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from exporter import pipeline
from exporter.cli.main import main
from exporter.config import ExportConfig, Trust
from exporter.errors import ExporterError, WrongUse
from exporter.network import sources, user_classes
from exporter.network.twin import twin_of

pytestmark = pytest.mark.tf

LAYERS = """
import keras

{decorator}
class Twice(keras.layers.Layer):
    def call(self, x):
        return 2 * x
"""
SAVE = """
import sys
sys.path.insert(0, sys.argv[1])
import keras
import {module}
x = keras.Input((4,))
model = keras.Model(x, keras.layers.Dense(3)({module}.Twice(name="doubled")(x)))
model.save(sys.argv[2])
"""
REGISTERED = "@keras.saving.register_keras_serializable({package})"


def save(place: Path, module: str, decorator: str, name: str = "own.keras") -> Path:
    """Save a network with a class of MODULE from another process, so that it isn't loaded here."""
    (place / f"{module}.py").write_text(LAYERS.format(decorator=decorator))
    command = [sys.executable, "-c", SAVE.format(module=module), str(place), str(place / name)]
    subprocess.run(command, check=True, capture_output=True)
    return place / name


def run(*arguments: Any) -> Result:
    return CliRunner().invoke(main, ["export", *map(str, arguments)])


@pytest.mark.parametrize(
    ("module", "package", "named", "wanted"),
    [
        ("layers_a", "'layers_a'", "layers_a>Twice", "--import layers_a"),
        ("layers_b", "", "Twice", "--import layers_b"),
        ("layers_c", None, "Twice", "--import layers_c"),
    ],
)
def test_a_missing_class_names_what_to_import(
    keras: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    module: str,
    package: str | None,
    named: str,
    wanted: str,
) -> None:
    decorator = "" if package is None else REGISTERED.format(package=package)
    model = save(tmp_path, module, decorator)
    result = run(model, "--to", "ort", "-o", tmp_path / "out")
    assert result.exit_code == 2, result.output
    assert f"needs classes that are not part of Keras: {named}" in result.stderr
    assert wanted in result.stderr
    assert not (tmp_path / "out").exists()
    monkeypatch.syspath_prepend(tmp_path)
    done = run(model, "--to", "ort", "-o", tmp_path / "out", *wanted.split())
    assert done.exit_code == 0, done.output


def test_a_file_is_imported_with_the_modules_beside_it(keras: ModuleType, tmp_path: Path) -> None:
    model = save(tmp_path, "layers_d", "")
    (tmp_path / "entry.py").write_text("from layers_d import Twice\n")
    source = sources.load(str(model), trust=Trust(imports=(str(tmp_path / "entry.py"),)))
    (got,) = source.call((np.ones((2, 4), np.float32),))
    kernel, bias = source.model.layers[-1].get_weights()
    np.testing.assert_allclose(got, 2 * np.ones((2, 4)) @ kernel + bias, rtol=1e-5)
    assert str(tmp_path) not in sys.path


def test_evaluate_needs_the_import_too(keras: ModuleType, tmp_path: Path) -> None:
    """Nothing that a passport says makes us import a module."""
    model, own = save(tmp_path, "layers_e", ""), tmp_path / "layers_e.py"
    assert run(model, "--to", "ort", "-o", tmp_path / "a", "--import", own).exit_code == 0
    data = tmp_path / "rows.npz"
    np.savez(data, images=np.zeros((4, 1, 4, 1), np.uint8), labels=np.zeros(4, int))
    evaluate = ["evaluate", str(tmp_path / "a"), "--data", f"npz:{data}"]
    refused = CliRunner().invoke(main, evaluate)
    assert refused.exit_code == 2
    assert "not part of Keras: Twice" in refused.stderr


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("1 / 0\n", "failed: ZeroDivisionError: division by zero (broken.py, line 1)"),
        ("import no_such_thing\n", "failed: ModuleNotFoundError: No module named 'no_such_thing'"),
        ("def f(:\n", "failed: SyntaxError"),
        ("raise SystemExit('bye')\n", "failed: SystemExit: bye"),
    ],
)
def test_an_import_that_fails_shows_its_own_error(
    keras: ModuleType, tmp_path: Path, content: str, said: str
) -> None:
    (tmp_path / "broken.py").write_text(content)
    out = tmp_path / "out"
    result = run("resnet18", "--to", "ort", "-o", out, "--import", tmp_path / "broken.py")
    assert result.exit_code == 2, result.output
    assert said in result.stderr
    assert "Traceback" not in result.output
    assert not out.exists()
    assert "broken" not in sys.modules


@pytest.mark.parametrize(
    ("name", "said"),
    [("no_such_package", "install it, or give its file"), ("gone.py", "no such file: gone.py")],
)
def test_an_import_that_is_not_there(name: str, said: str) -> None:
    with pytest.raises(WrongUse) as caught:
        user_classes.load([name])
    assert said in str(caught.value) + str(caught.value.hint)


def test_a_class_that_hdf5_only_names(keras: ModuleType, tmp_path: Path) -> None:
    model = save(tmp_path, "layers_f", "", "own.h5")
    with pytest.raises(ExporterError, match="not part of Keras: Twice"):
        sources.load(str(model))
    own = (str(tmp_path / "layers_f.py"),)
    assert sources.load(str(model), trust=Trust(imports=own)).layers[0] == "input_layer"


SUBCLASSED = """
import keras

class Block(keras.layers.Layer):
    def __init__(self, width, **options):
        super().__init__(**options)
        self.width = width
        self.conv = keras.layers.Conv2D(width, 3, padding="same")
        self.norm = keras.layers.BatchNormalization()

    def build(self, shape):
        self.conv.build(shape)
        self.norm.build((*shape[:-1], self.width))

    def call(self, x, training=None):
        return keras.ops.relu(self.norm(self.conv(x), training=training))

    def get_config(self):
        return {**super().get_config(), "width": self.width}

class Net(keras.Model):
    def __init__(self, **options):
        super().__init__(**options)
        self.blocks = [Block(4), Block(6)]
        self.pool = keras.layers.GlobalAveragePooling2D()
        self.head = keras.layers.Dense(3)

    def call(self, x, training=None):
        for block in self.blocks:
            x = block(x, training=training)
        return {"label": self.head(self.pool(x)), "features": x}
"""
SAVE_SUBCLASSED = """
import sys
sys.path.insert(0, sys.argv[1])
import numpy as np
import subclassed
net = subclassed.Net()
for _ in range(3):
    net(np.random.default_rng(0).random((8, 12, 12, 3)), training=True)
net.save(sys.argv[2])
"""


def test_a_subclassed_model_of_nested_layers(keras: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "subclassed.py").write_text(SUBCLASSED)
    model = tmp_path / "net.keras"
    command = [sys.executable, "-c", SAVE_SUBCLASSED, str(tmp_path), str(model)]
    subprocess.run(command, check=True, capture_output=True)
    trust = Trust(imports=(str(tmp_path / "subclassed.py"),))
    config = ExportConfig(str(model), "onnx", tmp_path / "out", trust=trust)
    passport = pipeline.export(config).passport
    assert passport["graph"]["inputs"][0]["shape"] == ["batch", 12, 12, 3]
    assert {port["name"] for port in passport["graph"]["outputs"]} == {"label", "features"}
    assert passport["passes"]["fold_batch_norm"]["applied"] == 2
    twin = twin_of(sources.load(str(model), trust=trust), "float64")
    assert twin.outputs[0].dtype == "float64"
