"""The script around the ladders, on a tiny artefact; the ladders are tested with the drift."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from benchmarks.drift import ladder as drift
from benchmarks.studies import ladders
from exporter.artifact.folder import Artifact
from exporter.models import zoo
from tests.benchmarks.drift.test_drift import Climb, climb, network, quantized

__all__ = ["climb"]


def test_every_shipped_network_and_one_of_a_user() -> None:
    shipped = {row.name for row in zoo.ZOO.values() if row.checkpoint}
    assert {*ladders.networks()} == {*shipped, "mobilenetv2"}


def test_figures_and_pictures_of_each(
    climb: Climb, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    int8 = {"scheme": "cpu", "reduce_range": True, "calibrator": "mse", "recovery": []}
    folded = network(folded=True)
    made = climb(folded, quantized(folded), int8=int8, precision="int8")
    asked: list[tuple[str, Path]] = []

    def export(model: str, output: Path, _: object) -> Artifact:
        asked.append((model, output))
        return made.made.artifact

    monkeypatch.setattr(ladders, "export", export)
    monkeypatch.setattr(drift, "climb", lambda *_, **__: made)
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(ladders.main, ["resnet18", "-o", "results"])
    assert done.exit_code == 0, done.output
    assert asked == [("resnet18", Path("build/ladders/resnet18-ort-int8"))]
    found = json.loads(Path("results/ladder_resnet18.json").read_text())
    assert found["benchmark"] == "ladders"
    assert found["int8"]["reduce_range"] is True
    assert [rung["rung"] for rung in found["rungs"]] == [
        *("keras", "onnx", "folded", "simulated", "engine")
    ]
    assert found["layers"]["layers"]
    pictures = sorted(path.name for path in Path("results").glob("*.png"))
    flips = ["ladder_resnet18_flips.png"] if len(made.flipped) else []
    assert pictures == ["ladder_resnet18.png", *flips, "ladder_resnet18_layers.png"]
    assert all(path.stat().st_size < 300_000 for path in Path("results").glob("*.png"))
