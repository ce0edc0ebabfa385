"""The drift ladder from a user's own Keras file, by the command that users give."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from click.testing import CliRunner

from exporter.cli.main import main
from tests.exporter import networks

pytestmark = pytest.mark.tf


@pytest.fixture(scope="module")
def saved(keras: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "plain.keras"
    networks.save(networks.plain(keras), path)
    return path


def run(*args: object) -> dict[str, Any]:
    result = CliRunner().invoke(main, [*map(str, args), "--json"])
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(result.stdout)
    return found


FP16 = ("--to", "onnx", "--precision", "fp16", "--calibration-images", "16")
INT8 = ("--precision", "int8", "--calibration-images", "16", "--recovery", "equalize")


@pytest.mark.parametrize(
    ("options", "rungs"),
    [
        (("--to", "ort"), ["keras", "onnx", "folded", "engine"]),
        (("--to", "ort", *INT8), ["keras", "onnx", "folded", "simulated", "engine"]),
        (
            (*FP16, "--layout", "nchw", "--batch", "7"),
            ["keras", "onnx", "folded", "simulated"],
        ),
        (("--to", "trt"), ["keras", "onnx", "folded", "engine"]),
    ],
)
def test_the_graphs_in_between_are_the_artefacts_own(
    saved: Path, tmp_path: Path, data: str, options: tuple[str, ...], rungs: list[str]
) -> None:
    out = tmp_path / "out"
    run("export", saved, "--preprocess", "unit", "--data", data, "-o", out, *options)
    found = run("evaluate", out, "--data", data, "--ladder", "--layers")
    assert found["graphs"]["same_as_artefact"], found["graphs"]["check"]
    assert [rung["rung"] for rung in found["rungs"]] == rungs
    converted, folded = found["rungs"][1:3]
    for rung in (converted, folded):
        assert rung["against_keras"]["max_relative_error"] < 1e-5
        assert rung["against_keras"]["label_flips"] == 0
    last = found["rungs"][-1]
    if "trt" in options:
        assert last["not_run"].startswith("not run on a GPU")
    else:
        assert last["correct"] is not None
    assert found["layers"]["layers"]
