"""Both stages of `benchmarks.gpu_acceptance`, with onnxruntime or stand-ins in the engine's place.

Nothing here ran on a GPU: what is shown is that all around the engine works.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from benchmarks.gate import run as gate_run
from benchmarks.gpu_acceptance import __main__ as command
from benchmarks.gpu_acceptance import handover, page, run
from benchmarks.gpu_acceptance.handover import SIMULATED
from benchmarks.latency import bench as latency
from benchmarks.latency.bench import Plan
from benchmarks.latency.timing_worker import Job
from exporter.artifact import folder as artifact
from exporter.artifact.folder import Artifact
from exporter.engines.audit import audit
from exporter.engines.layers import read_layers
from exporter.errors import ConversionError, Missing, WrongUse
from tests.benchmarks.gpu_runs import COUNT, prepared_by_hand
from tests.exporter import networks

ROOT = Path(__file__).parents[3]
STAND_INS = ROOT / "tests" / "stand_ins"
RECORD = ROOT / "tests" / "data" / "trt-records" / "mobilenet_v2_residuals.qat.layers.json"
QUIET = {"others": 0.0, "stolen": 0.0, "throttled_s": 0.0, "throttle_events": 0, "mhz": None}
QUICK = Plan(batches=(1, 8), rounds=5, seconds=0.0, warm_up_s=0.0)


def timed(milliseconds: dict[str, float]) -> Any:
    """Stand in for timing an engine: by its folder's last word."""

    def time_one(job: Job) -> dict[str, Any]:
        each = milliseconds[job.engine.path.name.rpartition("-")[2]] * job.batch
        return {
            "calls_ms": [each] * 20,
            "elapsed_s": 0.02 * each,
            "warm": True,
            "warm_up_s": 0.1,
            "load": QUIET,
            "peak_rss_mib": 50.0,
            "energy_mj": {},
            "device": {},
            "settings": {"cuda_graph": False},
        }

    return time_one


STAND_IN = replace(
    run.GPU,
    executed="onnxruntime in the engine's place: says nothing about a GPU",
    build=lambda path, progress: artifact.read(path),
    open=gate_run.open_simulated,
    audit=lambda one: audit(read_layers(RECORD)),
)


@pytest.fixture
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without other work, on which INT8 takes half of FP16's time."""
    monkeypatch.setattr(latency.stability, "reasons", lambda *_, **__: ())
    monkeypatch.setattr(latency, "time_apart", timed({"fp16": 2.0, "int8": 1.0}))


def outcome(folder: Path, output: Path, device: run.Device = STAND_IN) -> tuple[int, Any, str]:
    """Run the second stage; return its exit code, its JSON and its page."""
    output.mkdir()
    code = command.try_out(folder, output, QUICK, device)
    report = json.loads((output / command.JSON).read_text())
    return code, report, (output / command.PAGE).read_text()


def failing(report: Any) -> dict[str, str]:
    return {
        f"{row['precision']} {row['expectation']}": row["verdict"]
        for row in report["expectations"]
        if row["verdict"] != "met"
    }


def test_the_second_stage_with_a_stand_in(
    quiet: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = prepared_by_hand(tmp_path / "prepared")
    before = {file: artifact.sha256(file) for file in folder.rglob("*") if file.is_file()}
    code, report, shown = outcome(folder, tmp_path / "out")
    assert (code, failing(report)) == (0, {})
    assert len(report["expectations"]) == 3 + 6
    assert report["executed"].startswith("onnxruntime in the engine's place")
    assert "says nothing about a GPU" in shown
    assert "9 met, 0 not met, 0 not judged" in " ".join(capsys.readouterr().out.split())
    for engine in report["engines"]:
        assert engine["accuracy"]["correct"] == COUNT, "every image lies near its class's centre"
        assert engine["accuracy"]["against_keras"]["max_abs_error"] < 1e-6
    assert "| net | int8 | 40 | 40 | +0.00 | -6.60 to +6.60 | 1 | 0 |" in shown
    assert "| net-int8 | 8 | 8.000 | 8.000 | 1000 | 2.00x [2.00, 2.00] | no |" in shown
    after = {file: artifact.sha256(file) for file in folder.rglob("*") if file.is_file()}
    assert after == before, "engines are built elsewhere"


def wrong_logits(runner: Any, flips: int) -> Any:
    """Turn the labels of the first images of each batch."""

    class Wrong:
        def __enter__(self) -> Wrong:
            runner.__enter__()
            return self

        def __exit__(self, *error: Any) -> None:
            runner.__exit__(*error)

        def infer(self, feeds: Any) -> Any:
            logits = runner.infer(feeds)["logits"]
            logits[:flips] = logits[:flips, [1, 2, 0]]
            return {"logits": logits}

    return Wrong()


def refuse(path: Path, progress: Any) -> Artifact:
    if path.name == "net-fp16":
        raise ConversionError("TensorRT refuses node 'x'", hint="why")
    return artifact.read(path)


@pytest.mark.parametrize(
    ("broken", "expected"),
    [
        (
            {"open": lambda one: wrong_logits(gate_run.open_simulated(one), 1)},
            {f"{p} {e}": "not met" for p in SIMULATED for e in ("top-1", "agreement")},
        ),
        ({"audit": lambda one: None}, {"int8 fusion": "not judged"}),
        ({"audit": lambda one: read_layers(ROOT / "LICENSE")}, {"int8 fusion": "not judged"}),
        (
            {"build": refuse},
            {
                "fp16 runs": "not met",
                "fp16 top-1": "not judged",
                "fp16 agreement": "not judged",
                "int8 speed, batch 1": "not judged",
                "int8 speed, batch 8": "not judged",
            },
        ),
    ],
)
def test_what_goes_wrong_on_the_way_is_a_row(
    quiet: None, tmp_path: Path, broken: dict[str, Any], expected: dict[str, str]
) -> None:
    folder = prepared_by_hand(tmp_path / "prepared")
    code, report, shown = outcome(folder, tmp_path / "out", replace(STAND_IN, **broken))
    assert failing(report) == expected
    assert code == (3 if "not met" in expected.values() else 4)
    if "build" in broken:
        assert "TensorRT refuses node 'x' why" in shown
        assert "Not measured: one of its engines did not run." in shown


def test_a_slower_int8_engine_and_a_busy_machine(
    quiet: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = prepared_by_hand(tmp_path / "prepared")
    monkeypatch.setattr(latency, "time_apart", timed({"fp16": 1.0, "int8": 1.1}))
    code, report, _ = outcome(folder, tmp_path / "slow")
    assert failing(report) == {f"int8 speed, batch {n}": "not met" for n in (1, 8)}
    assert code == 3
    monkeypatch.setattr(latency.stability, "reasons", lambda *_, **__: ("the machine was busy",))
    code, report, shown = outcome(folder, tmp_path / "busy")
    assert failing(report) == {f"int8 speed, batch {n}": "not judged" for n in (1, 8)}
    assert code == 4
    assert "- unstable: the machine was busy" in shown


def test_what_is_missing_ends_the_run(tmp_path: Path) -> None:
    def gone(path: Path, progress: Any) -> Artifact:
        raise Missing("no TensorRT")

    with pytest.raises(Missing):
        outcome(prepared_by_hand(tmp_path / "p"), tmp_path / "out", replace(STAND_IN, build=gone))


# --- the first stage, and the command


def small_checkpoint(keras: ModuleType, path: Path) -> str:
    from exporter.models import checkpoint

    checkpoint.save_half(networks.plain(keras, classes=10), path, {"preprocessing": "unit"})
    return str(path)


@pytest.mark.tf
@pytest.mark.data
def test_both_stages_on_a_small_network(keras: ModuleType, quiet: None, tmp_path: Path) -> None:
    """The real first stage; then its own simulations in the engines' place."""
    net = small_checkpoint(keras, tmp_path / "net.keras")
    done = invoke("--prepare", tmp_path / "prepared", "--model", net, "--images", 50)
    assert done.exit_code == 0, done.output
    assert f"--run {tmp_path / 'prepared'}" in done.stdout
    prepared = handover.read(tmp_path / "prepared")
    (case,) = prepared.cases
    assert (len(prepared.images), prepared.test_images) == (50, 10_000)
    assert case.artefacts["int8"].passport["fp16"], "FP16 around it"
    assert case.artefacts["int8"].passport["trt"]["compiled"] is False
    assert not np.array_equal(case.logits["int8"], case.logits["fp16"])
    np.testing.assert_allclose(case.logits["fp16"], case.logits["keras"], rtol=0.02, atol=0.02)

    code, report, shown = outcome(tmp_path / "prepared", tmp_path / "out")
    assert code == 4
    found = failing(report)
    assert set(found.values()) == {"not judged"}, "50 images decide no accuracy"
    assert "50 of 10,000 test images" in shown
    assert "| net | int8, simulated on a CPU | " in shown
    for engine in report["engines"]:
        simulation = engine["against_simulation"]
        assert simulation["label_flips"] == 0
        assert simulation["max_abs_error"] < 1e-6, "the second stage feeds as the first did"


def invoke(*given: object) -> Any:
    return CliRunner().invoke(command.main, [str(each) for each in given])


def test_one_stage_after_the_other_and_the_second_again(
    quiet: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def by_hand(folder: Path, *_: object) -> None:
        prepared_by_hand(folder)

    monkeypatch.setattr(command, "require_gpu", lambda: None)
    monkeypatch.setattr(command, "prepare", by_hand)
    monkeypatch.setattr(run, "GPU", STAND_IN)
    both = invoke("-o", tmp_path / "out", "--seconds", 0)
    assert both.exit_code == 0, both.output
    again = ["--run", tmp_path / "out" / "prepared", "-o", tmp_path / "again"]
    monkeypatch.setattr(run, "GPU", replace(STAND_IN, audit=lambda one: None))
    assert invoke(*again).exit_code == 4
    monkeypatch.setattr(run, "GPU", replace(STAND_IN, build=refuse))
    assert isinstance(invoke(*again).exception, WrongUse), "what is there is not overwritten"
    assert invoke(*again[:-1], tmp_path / "third").exit_code == 3


def test_stages_that_contradict_each_other(tmp_path: Path) -> None:
    for given in (["--prepare", "a", "--run", "b"], ["--run", "b", "--images", "3"]):
        assert isinstance(invoke(*given).exception, WrongUse)
    same = ["--model", "a/net.keras", "--model", "b/net.keras"]
    assert isinstance(invoke("--prepare", tmp_path / "p", *same).exception, WrongUse)
    with pytest.raises(WrongUse, match="not empty"):
        command.new_folder(ROOT)


@pytest.mark.skipif(shutil.which("nvidia-smi") is not None, reason="here is a GPU")
def test_without_a_gpu_it_ends_at_once_with_4(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.gpu_acceptance", "-o", str(tmp_path / "out")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 4, done.stderr
    assert "pip install" in done.stderr or "nvidia-smi" in done.stderr
    assert "--prepare DIR" in done.stderr
    assert not (tmp_path / "out").exists()


TARGET = """
import sys
for name in ("tensorflow", "keras", "tf2onnx", "onnxruntime", "openvino", "matplotlib", "scipy"):
    sys.modules[name] = None  # importing it fails, as on a Jetson
from benchmarks.latency import bench as latency, timing_worker
latency.time_apart, timing_worker._GROUP_S = timing_worker.measure, 0.0
from benchmarks.gpu_acceptance.__main__ import main
main(sys.argv[1:])
"""


def test_the_command_on_a_machine_with_nothing_but_the_target_extra(tmp_path: Path) -> None:
    """TensorRT and CUDA are stand-ins: their wiring, and that nothing else is asked for."""
    net = """<ir_version: 8, opset_import: ["" : 17]>
        net (float[N,1,1,3] input) => (float[N,1,1,3] doubled) { doubled = Relu (input) }"""
    folder = prepared_by_hand(tmp_path / "p", net, side=1, channels=3, output="doubled")
    path = os.pathsep.join(map(str, (STAND_INS, ROOT)))
    given = ["--run", folder, "-o", tmp_path / "out", "--seconds", "0"]
    done = subprocess.run(
        [sys.executable, "-c", TARGET, *map(str, given)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": path, "XDG_CACHE_HOME": str(tmp_path / "cache")},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode in (3, 4), done.stderr  # neither a record of convolutions nor a gain
    report = json.loads((tmp_path / "out" / command.JSON).read_text())
    assert report["gpu"]["devices"][0]["name"] == "Stand-in GPU"
    found = {f"{row['precision']} {row['expectation']}": row for row in report["expectations"]}
    for precision in SIMULATED:
        for name in ("runs", "top-1", "agreement"):
            assert found[f"{precision} {name}"]["verdict"] == "met", found
    assert found["int8 fusion"]["verdict"] == "not judged"
    for engine in report["engines"]:
        assert engine["engine"]["tensorrt"] == "10.3.0"
        assert engine["against_simulation"]["max_abs_error"] == 0
    (timed_here,) = report["latency"].values()
    for row in timed_here["rows"]:
        assert row["settings"]["cuda_graph"] != row["engine"].endswith("(no CUDA graph)")


def test_a_page_keeps_strangers_words_in_their_cells() -> None:
    (row,) = page.table(("a",), [["<b>|\n`x`"]])[2:3]
    assert row == "| &lt;b>\\| 'x' |"
