"""The INT8 comparison on a tiny network, and the verdicts and records around it."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import pytest

from benchmarks.latency import int8_tools, worker
from benchmarks.studies import int8_cells, int8_comparison
from benchmarks.studies.int8_comparison import OURS, RIVALS, Runner, default_models, show, verdict
from benchmarks.studies.untuned import RECIPES
from calibration.sensitivity import noise_ratio, sqnr_db
from exporter.models import checkpoint


def cell(flips: int) -> dict[str, Any]:
    tested = {"change_points": -0.02, "interval_points": [-0.1, 0.06], "p_value": 0.62}
    fused = {"convolutions": 20, "qlinear_convolutions": 20, "adds": 8, "qlinear_adds": 8}
    return {
        "top1": 0.9243,
        "paired": tested,
        "against_keras": {"label_flips": flips},
        "sqnr_db": 31.2,
        "fusion": {**fused, "q_and_dq_inside": 0, "full": True},
    }


def against(*rivals: str) -> dict[str, Any]:
    return {rival: cell(0)["paired"] for rival in rivals}


def test_verdict_names_who_loses_least() -> None:
    cells = {"ours-mse": cell(40), "quantize_static": cell(70), "nncf": cell(41)}
    found = verdict(cells, against(*RIVALS))
    assert found["ours_is_best"] is True
    assert "ours is best: 40 label flips, nncf 41" in found["text"]
    found = verdict({**cells, "nncf": cell(39)}, against(*RIVALS))
    assert found["ours_is_best"] is False
    assert found["fewest_flips"] == "nncf"
    assert "NOT best" in found["text"]


def test_verdict_says_what_it_did_not_compare() -> None:
    found = verdict({"ours-mse": cell(40), "quantize_static": cell(70)}, against("quantize_static"))
    assert "not compared with nncf" in found["text"]
    assert verdict({"ours-mse": cell(40)}, {})["ours_is_best"] is None
    assert verdict({"ours-entropy": cell(1), "nncf": cell(9)}, {})["ours_is_best"] is None


def test_table_shows_failures_and_simulations(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    tools = {"ours-mse": cell(40), "nncf": {"failed": "Traceback\nMissing: NNCF is not installed"}}
    verdict = {"text": "nothing to compare"}
    show({"network": "resnet18", "scheme": "tensorrt", "tools": tools, "verdict": verdict})
    shown = capsys.readouterr().out
    assert "simulated, not run on a GPU" in shown
    assert "20/20" in shown
    assert "failed" in shown
    assert "nothing to compare" in shown
    assert max(map(len, shown.splitlines())) <= 100


def test_untuned_networks_are_compared_by_default() -> None:
    assert set(RECIPES) < set(default_models())
    assert "resnet18" in default_models()


def test_settings_fit_the_scheme() -> None:
    for vnni in (True, False):
        for settings in int8_tools.settings_to_try("quantize_static", "cpu", vnni=vnni):
            assert settings["activation_type"] == "QUInt8"
            assert settings["reduce_range"] is not vnni
    for settings in int8_tools.settings_to_try("quantize_static", "tensorrt", vnni=False):
        assert settings["extra_options"]["ActivationSymmetric"]
        assert "reduce_range" not in settings
    (signed,) = int8_tools.settings_to_try("nncf", "tensorrt", vnni=False)
    assert signed["signed"]
    tried = int8_tools.settings_to_try("nncf", "cpu", vnni=False)
    assert {settings["overflow_fix"] for settings in tried} == {"FIRST_LAYER", "ENABLE"}


def test_sqnr_worked_by_hand() -> None:
    reference = np.array([[3.0, 4.0]], np.float32)
    assert sqnr_db(noise_ratio(reference, reference + np.float32([[0.5, 0]]))) == pytest.approx(20)
    assert sqnr_db(noise_ratio(reference, reference)) == float("inf")


# Records.


class Process:
    """Stands for the process of a cell: counts how often one was started."""

    def __init__(self, **answer: Any) -> None:
        self.answer, self.started = answer, 0

    def __call__(self, function: str, job: str) -> worker.Answer:
        self.started += 1
        return self.answer


def runner(work: Path, *, images: int = 100, resume: bool = True) -> Runner:
    return Runner(work, (images, 16), resume, lambda line: None)


def test_resume_keeps_only_what_still_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tmp_path / "mine.keras"
    model.write_bytes(b"one")
    process = Process(top1=0.9, against_keras={"label_flips": 3})
    monkeypatch.setattr(worker, "ask", process)
    step = ("mine", str(model), "cpu", "ours-mse")
    first = runner(tmp_path).step(*step)
    assert runner(tmp_path).step(*step) == first
    assert process.started == 1, "kept"
    runner(tmp_path, resume=False).step(*step)
    assert process.started == 2, "nobody asked to resume"
    runner(tmp_path, images=200).step(*step)
    assert process.started == 3, "other images"
    model.write_bytes(b"two")
    runner(tmp_path, images=200).step(*step)
    assert process.started == 4, "another network"


def test_a_failed_cell_is_recorded_and_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = Process(error="ended with 1: Missing: nncf")
    monkeypatch.setattr(worker, "ask", process)
    step = ("resnet18", "resnet18", "cpu", "nncf")
    assert "Missing: nncf" in runner(tmp_path).step(*step)["failed"]
    kept = json.loads((tmp_path / "resnet18" / "cpu-nncf.json").read_text())
    assert "failed" in kept
    runner(tmp_path).step(*step)
    assert process.started == 2


# The real thing, on a network of two convolutions and one residual Add.


@pytest.fixture
def residual(keras: ModuleType, tmp_path: Path) -> str:
    layers = keras.layers
    keras.utils.set_random_seed(0)
    x = inputs = layers.Input((28, 28, 1))
    x = layers.Conv2D(4, 3, strides=2, padding="same", activation="relu")(x)
    branch = layers.BatchNormalization()(layers.Conv2D(4, 3, padding="same")(x))
    x = layers.Activation("relu")(layers.Add()([x, branch]))
    model = keras.Model(inputs, layers.Dense(10)(layers.GlobalAveragePooling2D()(x)))
    path = tmp_path / "residual.keras"
    checkpoint.save_half(model, path, {"preprocessing": "unit", "classes": []})
    return str(path)


@pytest.mark.tf
@pytest.mark.data
def test_cells_of_a_tiny_network(
    residual: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(int8_cells, "HELD_OUT", 20)
    one = int8_tools.settings_to_try("quantize_static", "cpu", vnni=False)[:2]
    ours = int8_tools.settings_to_try("ours-mse", "cpu", vnni=False)
    monkeypatch.setattr(
        int8_tools, "settings_to_try", lambda tool, *_, **__: ours if tool in OURS else one
    )
    work = tmp_path / "work"
    prepared = int8_cells.prepare(str(work), residual, 40, 16)
    assert prepared["keras"]["images"] == 40
    for tool in ("ours-mse", "quantize_static"):
        found = int8_cells.run_cell(str(work), residual, "cpu", tool)
        assert found["images"] == 40
        assert found["paired"]["images"] == 40
        assert found["sqnr_db"] > 15, "8 bits, 7 of weights, through three layers"
        assert (found["fusion"]["convolutions"], found["fusion"]["adds"]) == (2, 1)
        assert found["fusion"]["qlinear_convolutions"] == 2
        assert found["fusion"]["qlinear_adds"] == 1
        # onnxruntime has no integer ReduceMean, which quantize_static leaves in the graph.
        assert found["fusion"]["q_and_dq_inside"] == (0 if tool in OURS else 2)
        assert found["fusion"]["full"] == (tool in OURS)
        assert len(found["tried_on_held_out"]) == (1 if tool in OURS else 2)
        json.dumps(found)
    assert not list(work.glob("*.candidate.onnx"))
    compared = int8_comparison.compare_with_rivals(work, "cpu", ["ours-mse", "quantize_static"])
    assert compared["quantize_static"]["images"] == 40


@pytest.mark.tf
@pytest.mark.data
def test_signed_scheme_is_simulated_as_written(residual: str, tmp_path: Path) -> None:
    work = tmp_path / "work"
    int8_cells.prepare(str(work), residual, 40, 16)
    found = int8_cells.run_cell(str(work), residual, "tensorrt", "ours-mse")
    assert found["simulated"] is True
    assert found["fusion"] is None
    ops = [node.op_type for node in onnx.load(work / "tensorrt-ours-mse.onnx").graph.node]
    assert "QuantizeLinear" in ops
