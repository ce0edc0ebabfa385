"""The whole way: what is refused, what is recorded, and what the shipped networks lose."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType

import numpy as np
import onnx_ir as ir
import pytest

from exporter import pipeline
from exporter.errors import ConversionError
from exporter.models import zoo
from exporter.network import sources
from tests.exporter import networks

pytestmark = pytest.mark.tf


def test_a_graph_that_is_another_network_is_refused(
    keras: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fold that forgets epsilon is wrong by little, and must not pass."""
    from exporter.network import frontend

    honest = frontend.to_onnx

    def forgetful(source: sources.Source, batch: int | None = None) -> ir.Model:
        model = honest(source, batch)
        for value in model.graph.initializers.values():
            if "batchnorm/add/y" in str(value.name):
                value.const_value = ir.tensor(np.float32(0))
        return model

    monkeypatch.setattr(frontend, "to_onnx", forgetful)
    path = networks.save(networks.plain(keras), tmp_path / "plain.keras")
    config = pipeline.ExportConfig(path, target="ort", output=tmp_path / "out")
    with pytest.raises(ConversionError, match="not the same network"):
        pipeline.export(config)
    assert [file.name for file in tmp_path.iterdir()] == ["plain.keras"]


def test_a_failing_compiler_leaves_nothing(
    keras: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from exporter.targets import ort

    def fail(folder: Path, build: object) -> None:
        (folder / "half.plan").write_bytes(b"x")
        raise ConversionError("no")

    monkeypatch.setattr(ort, "compile", fail)
    path = networks.save(networks.plain(keras), tmp_path / "plain.keras")
    config = pipeline.ExportConfig(path, target="ort", output=tmp_path / "out")
    with pytest.raises(ConversionError, match="no"):
        pipeline.export(config)
    assert [file.name for file in tmp_path.iterdir()] == ["plain.keras"]


def test_passport_says_what_was_done(keras: ModuleType, tmp_path: Path) -> None:
    path = networks.save(networks.plain(keras), tmp_path / "plain.keras")
    config = pipeline.ExportConfig(path, target="onnx", output=tmp_path / "out")
    artifact = pipeline.export(config)
    passport = json.loads((tmp_path / "out" / "passport.json").read_text())
    assert passport == artifact.passport
    assert passport["source"]["sha256"] == sources.load(path).sha256
    assert passport["passes"]["fold_batch_norm"] == {"applied": 1, "kept": []}
    assert passport["check"]["data"] == "random inputs (no --data was given)"
    assert passport["graph"]["ops"]["Conv"] == 1
    assert passport["versions"]["tf2onnx"]


@pytest.mark.slow
@pytest.mark.data
@pytest.mark.parametrize("name", [row.name for row in zoo.ZOO.values() if row.checkpoint])
def test_shipped_checkpoints_lose_nothing(name: str, tmp_path: Path) -> None:
    """All 10,000 test images: no label flips, and Keras' top-1 is the recorded one exactly."""
    from benchmarks.accuracy import measure as accuracy

    config = pipeline.ExportConfig(name, target="ort", output=tmp_path / "out")
    artifact = pipeline.export(config)
    keras_row, row = accuracy.evaluate([artifact], "fashion-mnist")
    checkpoint = zoo.ZOO[name].checkpoint
    assert checkpoint is not None
    recorded = json.loads(checkpoint.with_suffix(".history.json").read_text())["test"]
    assert keras_row.images == recorded["images"] == 10_000
    assert keras_row.correct == row.correct == recorded["correct"]
    assert row.flips == ()
