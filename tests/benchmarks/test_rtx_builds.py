"""The script around the builds; the builds themselves are `benchmarks.rtx_builds` in CI."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from benchmarks import rtx_builds
from exporter.errors import GateRefused
from exporter.models import zoo


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """Builds that only write down what they were asked for; resnet34 in INT8 is refused."""
    asked: list[tuple[str, str]] = []

    def build_all(models: tuple[str, ...], wanted: tuple[str, ...]) -> list[rtx_builds.Row]:
        asked.extend((model, precision) for model in models for precision in wanted)
        done = {"onnx_bytes": 1, "build_seconds": 0.5, "cpu_seconds": 9.0, "warnings": []}
        rows = []
        for model, precision in asked:
            refused = (model, precision) == ("resnet34", "int8")
            size = 1_000_000 if precision == "int8" else 4_000_000
            rest = {"error": "no"} if refused else {**done, "plan_bytes": size}
            rows.append({"model": model, "precision": precision, **rest})
        return rows

    monkeypatch.setattr(rtx_builds, "build_all", build_all)
    monkeypatch.setattr(type(rtx_builds.targets.lookup("trt-rtx")), "load", lambda row: None)
    return asked


def test_all_of_the_zoo_in_all_precisions(recorded: list[tuple[str, str]], tmp_path: Path) -> None:
    done = CliRunner().invoke(rtx_builds.main, ["--output", str(tmp_path / "out.json")])
    assert done.exit_code == 1, "resnet34 was refused"
    assert {model for model, _ in recorded} == set(zoo.ZOO)
    assert len(recorded) == len(zoo.ZOO) * len(rtx_builds.precisions())
    report = json.loads((tmp_path / "out.json").read_text())
    assert len(report["results"]) == len(recorded), "a refusal does not end the run"
    assert report["executed"] == "built, not run on a GPU"


def test_a_selection_and_its_shares(recorded: list[tuple[str, str]]) -> None:
    done = CliRunner().invoke(
        rtx_builds.main, ["--models", "resnet18", "--precisions", "fp32,int8"]
    )
    assert done.exit_code == 0, done.output
    assert recorded == [("resnet18", "fp32"), ("resnet18", "int8")]
    assert "0.25" in done.output


@pytest.mark.parametrize(("int8", "refused"), [(333_333, False), (333_334, True)])
def test_the_int8_plan_is_held_to_a_third(int8: int, refused: bool) -> None:
    rows = [
        {"model": "resnet18", "precision": "fp32", "plan_bytes": 1_000_000},
        {"model": "resnet18", "precision": "int8", "plan_bytes": int8},
        {"model": "resnet50", "precision": "fp32", "plan_bytes": 1},  # is not held to it
        {"model": "resnet50", "precision": "int8", "plan_bytes": 1},
    ]
    if not refused:
        rtx_builds.check_size(rows)
        return
    with pytest.raises(GateRefused, match=r"0\.33 of FP32's 1,000,000") as caught:
        rtx_builds.check_size(rows)
    assert caught.value.exit_code == 3


def test_a_refused_plan_is_no_small_one() -> None:
    rtx_builds.check_size([{"model": "resnet18", "precision": "int8", "error": "no"}])


def test_every_precision_is_built() -> None:
    assert rtx_builds.precisions() == ("fp32", "fp16", "int8")


def test_unknown_names_are_refused(recorded: list[tuple[str, str]]) -> None:
    done = CliRunner().invoke(rtx_builds.main, ["--models", "resnet5o"])
    assert done.exit_code == 2
    assert "known: resnet18" in done.output
    assert recorded == []
