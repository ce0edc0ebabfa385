"""The script around the builds; the builds themselves are `benchmarks.studies.rtx_builds` in CI."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from click.testing import CliRunner

from benchmarks.studies import rtx_builds
from exporter import pipeline
from exporter.artifact.folder import MODEL
from exporter.config import ExportConfig
from exporter.errors import GateRefused
from exporter.models import zoo
from exporter.network import sources
from tests.exporter import networks

ROOT = Path(__file__).parents[3]


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """Builds that only write down what they were asked for; resnet34 in INT8 is refused."""
    asked: list[tuple[str, str]] = []

    def build_all(models: tuple[str, ...], wanted: tuple[str, ...]) -> list[rtx_builds.Row]:
        asked.extend((model, precision) for model in models for precision in wanted)
        done = {"onnx_bytes": 1, "build_seconds": 0.5, "cpu_seconds": 9.0, "warnings": []}
        done["kept_fp32"] = 0
        rows = []
        for model, precision in asked:
            refused = (model, precision) == ("resnet34", "int8")
            size = 1_000_000 if precision in ("int8", "fp8") else 4_000_000
            rest = {"error": "no"} if refused else {**done, "plan_bytes": size}
            row = {"model": model, "precision": precision, "conversion_cpu_seconds": 2.0}
            rows.append({**row, **rest})
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
    assert report["cpu_seconds"] == 9 * (2 + 4 * 9) - (9 + 0), "a conversion counts once"


def test_an_interrupted_run_leaves_what_it_has(
    recorded: list[tuple[str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*given: tuple[str, ...]) -> Iterator[rtx_builds.Row]:
        yield from rows
        raise KeyboardInterrupt

    rows = rtx_builds.build_all(("resnet18",), ("fp32", "fp16"))
    monkeypatch.setattr(rtx_builds, "build_all", interrupted)
    CliRunner().invoke(rtx_builds.main, ["--output", str(tmp_path / "out.json")])
    assert json.loads((tmp_path / "out.json").read_text())["results"] == rows


PLANS = (("fp32", 4_040_000), ("fp16", 2_020_000), ("int8", 1_010_000), ("fp8", 1_212_000))


def test_the_readmes_table() -> None:
    rows = [
        {"model": "net", "precision": precision, "plan_bytes": size, "cpu_seconds": 1.0}
        for precision, size in PLANS
    ]
    assert rtx_builds.markdown({"results": rows}) == (
        "| model | fp32, MB | fp16, MB | int8, MB | fp8, MB | INT8 of FP32 | FP8 of FP32 |\n"
        "|---|---|---|---|---|---|---|\n"
        "| `net` | 4.0 | 2.0 | 1.0 | 1.2 | 0.25 | 0.30 |\n"
    )


def test_a_selection_and_its_shares(recorded: list[tuple[str, str]]) -> None:
    done = CliRunner().invoke(
        rtx_builds.main, ["--models", "resnet18", "--precisions", "fp32,int8"]
    )
    assert done.exit_code == 0, done.output
    assert recorded == [("resnet18", "fp32"), ("resnet18", "int8")]
    assert "0.25" in done.output


@pytest.mark.parametrize("precision", ["int8", "fp8"])
@pytest.mark.parametrize(("size", "refused"), [(333_333, False), (333_334, True)])
def test_the_plans_of_8_bits_are_held_to_a_third(precision: str, size: int, refused: bool) -> None:
    rows = [
        {"model": "resnet18", "precision": "fp32", "plan_bytes": 1_000_000},
        {"model": "resnet18", "precision": precision, "plan_bytes": size},
        {"model": "resnet50", "precision": "fp32", "plan_bytes": 1},  # is not held to it
        {"model": "resnet50", "precision": "int8", "plan_bytes": 1},
    ]
    if not refused:
        rtx_builds.check_size(rows)
        return
    with pytest.raises(GateRefused, match=r"0\.33 of FP32's 1,000,000") as caught:
        rtx_builds.check_size(rows)
    assert caught.value.exit_code == 3


@pytest.mark.parametrize(
    ("precision", "rounding", "refused"),
    [
        ("fp16", 0.0078, False),  # 4 * sqrt(16) / 2048 = 0.0078125
        ("fp16", 0.0079, True),
        ("fp16", float("nan"), True),
        ("int8", 0.062, False),  # 4 * sqrt(16) / 256 = 0.0625
        ("int8", 0.063, True),
        ("fp8", 0.24, False),  # 4 * sqrt(16) / 64 = 0.25
        ("fp8", 0.26, True),
        ("fp32", None, False),
    ],
)
def test_fp16_is_held_to_its_roundings(precision: str, rounding: float, refused: bool) -> None:
    row = {"model": "m", "precision": precision, "convolutions": 16, "rounding": rounding}
    if refused:
        with pytest.raises(GateRefused, match="where 0"):
            rtx_builds.check_rounding([row])
    else:
        rtx_builds.check_rounding([row, {"model": "m", "precision": "fp16", "error": "no"}])


def test_a_refused_plan_is_no_small_one() -> None:
    rtx_builds.check_size([{"model": "resnet18", "precision": "int8", "error": "no"}])


def test_every_precision_is_built() -> None:
    assert rtx_builds.precisions() == ("fp32", "fp16", "int8", "fp8")


def test_the_recorded_builds_are_of_the_whole_zoo_and_hold() -> None:
    recorded = ROOT / "benchmarks/results/rtx_builds.json"
    rows = json.loads(recorded.read_text())["results"]
    assert {(row["model"], row["precision"]) for row in rows} == {
        (model, precision) for model in zoo.ZOO for precision in rtx_builds.precisions()
    }
    rtx_builds.check_size(rows)
    rtx_builds.check_rounding(rows)


@pytest.mark.tf
@pytest.mark.data
def test_its_graphs_are_those_of_an_export(
    keras: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the comparison with Keras is left out, so the same bytes reach NVIDIA's parser."""
    pytest.importorskip("tensorrt_rtx", reason="pip install 'exporter[rtx]'")
    monkeypatch.setattr(zoo, "build", lambda name: networks.plain(keras))
    (tmp_path / "images").mkdir()
    images = rtx_builds.few_images(tmp_path / "images")
    converted = rtx_builds.convert(sources.load("resnet34", weights="random"))
    for precision in ("fp16", "int8"):
        row = rtx_builds.build(converted, precision, images, tmp_path)
        assert row["plan_bytes"] > 1000, row
        config = ExportConfig(
            "resnet34",
            "trt-rtx",
            tmp_path / precision,
            precision,
            weights="random",
            data=images,
            calibrator="minmax",
            calibration_images=2,
            check_images=1,
        )
        exported = pipeline.export(config).file(MODEL).read_bytes()
        assert exported == (tmp_path / MODEL).read_bytes()


def test_unknown_names_are_refused(recorded: list[tuple[str, str]]) -> None:
    done = CliRunner().invoke(rtx_builds.main, ["--models", "resnet5o"])
    assert done.exit_code == 2
    assert "resnet18" in done.output
    assert recorded == []
