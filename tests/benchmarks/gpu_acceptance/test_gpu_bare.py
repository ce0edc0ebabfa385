"""The run on a bare GPU machine, rehearsed: nothing here ran on a GPU."""

from __future__ import annotations

import ctypes
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner

from benchmarks.gpu_acceptance import __main__ as command
from benchmarks.gpu_acceptance import bare, bare_expectations, handover, skeleton
from benchmarks.gpu_acceptance.bare import PARTS, Part
from benchmarks.gpu_acceptance.handover import BARE, KERAS
from benchmarks.gpu_acceptance.parts import latency, runner, stand_in
from benchmarks.gpu_acceptance.parts.accuracy import figures
from benchmarks.gpu_acceptance.parts.engines import VARIANTS
from benchmarks.gpu_acceptance.parts.latency import Engine, rows
from benchmarks.latency import gpu_watch, stability
from exporter.artifact.folder import MODEL
from exporter.errors import ExporterError, WrongUse
from exporter.passes import fold_constants  # noqa: F401  (loads onnx_ir once)
from exporter.targets.ort import OrtRunner
from tests.benchmarks.gpu_runs import COUNT, prepared_by_hand

_HERE = "tests.benchmarks.gpu_parts"


def part(name: str, limit_s: float = 60.0) -> Part:
    return Part(name, f"what {name} is", f"{_HERE}:{name}", limit_s)


def is_running(process: int) -> bool:
    """Whether a process does anything; one that ended and was not yet waited for does not."""
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in ("Z", "X")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return prepared_by_hand(tmp_path / "prepared", kind=BARE)


def outcome(folder: Path, output: Path, *parts: Part, **options: Any) -> dict[str, Any]:
    output.mkdir()
    report = bare.run(folder, output, device="cpu", parts=parts, **options)
    assert json.loads((output / bare.JSON).read_text()) == json.loads(json.dumps(report))
    return report


def test_all_parts_together_take_less_than_eight_minutes() -> None:
    assert sum(each.limit_s for each in PARTS) <= bare.DEADLINE_S < 480


def test_one_part_that_goes_wrong_leaves_the_others(folder: Path, tmp_path: Path) -> None:
    given = [part("crashes"), part("lacks_a_wheel"), part("refuses"), part("good")]
    report = outcome(folder, tmp_path / "out", *given)
    statuses = {each["name"]: each["status"] for each in report["parts"]}
    assert statuses == {
        "crashes": "failed",
        "lacks_a_wheel": "failed",
        "refuses": "failed",
        "good": "ok",
    }
    reasons = {each["name"]: each["reason"] for each in report["parts"]}
    assert reasons["crashes"].startswith("ended with -6")
    assert "No module named 'no_such_wheel'" in reasons["lacks_a_wheel"]
    assert reasons["refuses"] == "no NVIDIA GPU on this machine\nsee nvidia-smi"
    page = (tmp_path / "out" / bare.PAGE).read_text()
    assert "| refuses | what refuses is | failed |" in page
    assert page.count("rehearsed on a CPU, not run on a GPU") == 1
    assert report["rehearsed"] is True


def test_a_part_over_its_time_is_ended_with_all_it_started(folder: Path, tmp_path: Path) -> None:
    started = time.monotonic()
    report = outcome(folder, tmp_path / "out", part("hangs", 6.0), part("good"))
    assert [each["status"] for each in report["parts"]] == ["over time", "ok"]
    assert time.monotonic() - started < 40
    child = int((tmp_path / "out" / "hangs" / "child").read_text())
    assert not is_running(child)


def test_a_failure_that_a_part_found_out_keeps_its_figures(folder: Path, tmp_path: Path) -> None:
    report = outcome(folder, tmp_path / "out", part("finds_a_failure"))
    (done,) = report["parts"]
    assert (done["status"], done["reason"]) == ("failed", "the plan does not load")
    assert done["figures"] == {"predicted": "does not load"}


def test_what_tensorrt_rtx_refused_stands_beside_what_doctor_said() -> None:
    row = {"model": "net", "variant": "int8", "error": "no kernel for sm_90"}
    (judged,) = bare_expectations.judge({"rtx": {"predicted": "does not load", "rows": [row]}})
    assert judged["verdict"] == "not met"
    assert judged["why"] == "no kernel for sm_90; doctor predicted: does not load"


def test_there_is_a_report_before_the_first_part_ends(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ended(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(bare, "_try", ended)
    with pytest.raises(KeyboardInterrupt):
        outcome(folder, tmp_path / "out", part("good"))
    assert json.loads((tmp_path / "out" / bare.JSON).read_text())["parts"] == []
    assert not list((tmp_path / "out").glob("*.part"))


def test_what_does_not_fit_into_the_deadline_is_skipped(folder: Path, tmp_path: Path) -> None:
    report = outcome(folder, tmp_path / "out", part("good"), deadline_s=1.0)
    assert report["parts"][0]["status"] == "skipped"
    assert report["parts"][0]["reason"] == "there was no time left for it"


def test_the_report_is_there_after_every_part(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A machine that is taken away in the middle leaves what was measured."""
    output = tmp_path / "out"
    output.mkdir()

    def taken_away(*given: Any) -> Any:
        if given[0].name == "refuses":
            raise KeyboardInterrupt
        return real(*given)

    real = bare._try
    monkeypatch.setattr(bare, "_try", taken_away)
    with pytest.raises(KeyboardInterrupt):
        bare.run(folder, output, device="cpu", parts=[part("good"), part("refuses")])
    kept = json.loads((output / bare.JSON).read_text())
    assert [each["name"] for each in kept["parts"]] == ["good"]


def test_a_folder_for_tensorrt_is_refused(tmp_path: Path) -> None:
    other = prepared_by_hand(tmp_path / "p")
    with pytest.raises(WrongUse, match="prepared for a machine with TensorRT"):
        bare.run(other, tmp_path)


def test_a_damaged_folder_is_refused_before_any_part(folder: Path, tmp_path: Path) -> None:
    (folder / "net-fp32" / MODEL).write_bytes(b"other")
    with pytest.raises(ExporterError, match=r"net-fp32.*SHA-256 differs"):
        outcome(folder, tmp_path / "out", part("good"))


def test_rehearsed_accuracy_of_a_network_worked_out_by_hand(folder: Path, tmp_path: Path) -> None:
    (accuracy,) = (each for each in PARTS if each.name == "accuracy")
    report = outcome(folder, tmp_path / "out", accuracy)
    found = report["parts"][0]["figures"]
    assert [row["variant"] for row in found["rows"]] == ["fp32", "tf32", "fp16"]
    assert all(row["accuracy"]["correct"] == COUNT for row in found["rows"])
    assert all(row["flipped"] == [] for row in found["rows"])
    verdicts = {(row["precision"], row["expectation"]): row for row in report["expectations"]}
    assert verdicts["fp16", "simulation"]["verdict"] == "met"
    assert verdicts["fp32", "placement"]["verdict"] == "not judged"


def test_flips_are_counted_image_by_image() -> None:
    keras = np.eye(3, dtype=np.float32)[[0, 1, 2, 0]]
    simulated = np.eye(3, dtype=np.float32)[[0, 1, 0, 0]]  # predicts that image 2 flips
    got = np.eye(3, dtype=np.float32)[[1, 1, 0, 0]]  # images 0 and 2 do
    found = figures(VARIANTS[2], got, {KERAS: keras, "fp16": simulated}, np.array([0, 1, 2, 0]))
    assert found["flipped"] == [0, 2]
    assert found["simulation"]["predicted"] == [2]
    assert found["simulation"]["label_flips"] == 1
    row = {"model": "net", **found, "placement": None}
    (judged,) = bare_expectations._simulation({"rows": [row]})
    assert judged[2].found == (
        "75.00% the same label; 1 flips predicted, 2 found, 1 of them the same images"
    )
    assert judged[2].met is False


GOOD: dict[str, Any] = {
    "runner": {
        "exact": {"max_abs_error": 0.0, "graph_without": False, "graph_with": True},
        "leaks": {"calls": 10_000, "gpu_bytes": 0, "host_mib": 0.5},
        "clock": {"host_ms": 10.0, "events_ms": 9.5, "events_by_host": 0.95},
    },
    "nvml": {
        "power_by_energy": 1.02,
        "power_w": 300.0,
        "idle": {"unstable": []},
        "loaded": {"unstable": ["the GPU was busy before the start: 99% of the time"]},
    },
}


@pytest.mark.parametrize(
    ("where", "value", "expectation"),
    [
        (("runner", "exact", "max_abs_error"), 1e-6, "results"),
        (("runner", "exact", "graph_with"), False, "results"),
        (("runner", "leaks", "gpu_bytes"), 4096, "leaks"),
        (("runner", "leaks", "host_mib"), 20.0, "leaks"),
        (("runner", "clock", "events_by_host"), 0.5, "clock"),
        (("nvml", "power_by_energy"), 2.0, "energy"),
        (("nvml", "loaded", "unstable"), [], "load"),
        (("nvml", "idle", "unstable"), ["busy"], "load"),
    ],
)
def test_each_expectation_can_fail(where: tuple[str, ...], value: Any, expectation: str) -> None:
    assert {row["verdict"] for row in bare_expectations.judge(GOOD)} == {"met"}
    broken = json.loads(json.dumps(GOOD))
    inner = broken
    for key in where[:-1]:
        inner = inner[key]
    inner[where[-1]] = value
    verdicts = {row["expectation"]: row["verdict"] for row in bare_expectations.judge(broken)}
    assert verdicts.pop(expectation) == "not met"
    assert set(verdicts.values()) == {"met"}


def test_latencies_are_condensed_by_hand() -> None:
    keras, ours = (Engine("resnet18", name, "", False, "cuda") for name in ("keras", "fp16"))

    def sample(ms: float, device: dict[str, float]) -> dict[str, Any]:
        batches = {"8": {"calls_ms": [ms] * 10, "device": device}}
        return {"batches": batches, "settings": {}}

    samples = {
        keras: [sample(8.0, {}), sample(10.0, {})],
        ours: [sample(2.0, {"compute_ms": 1.0}), sample(2.0, {"compute_ms": 1.0})],
    }
    first, second = rows(samples, {"resnet18": 10**9}, {"fp16": 100.0})
    assert first["images_s"] == pytest.approx(1000 * 8 / 9)
    assert second["speedup"] == {"ratio": 4.5, "low": 4.0, "high": 5.0}
    # 8 images of 2 GFLOP in 1 ms are 16 TFLOP/s of 100.
    assert second["share_of_peak"] == pytest.approx(0.16)


def test_an_engine_that_fails_is_a_row() -> None:
    engine = Engine("resnet18", "fp16", "", True, "cuda")
    (row,) = rows({engine: [{"error": "out of memory"}]}, {}, {})
    assert row["error"] == "out of memory"


def small_graph() -> bytes:
    model = onnx.parser.parse_model(
        """<ir_version: 9, opset_import: ["" : 19]>
        g (float[N, 16] x) => (float[N, 32] y) { y = MatMul(x, w) }"""
    )
    weight = np.random.default_rng(0).normal(0.5, 2, (16, 32)).astype(np.float32)
    model.graph.initializer.append(onnx.numpy_helper.from_array(weight, "w"))
    data: bytes = model.SerializeToString()
    return data


def test_a_skeleton_gets_weights_of_the_same_spread(tmp_path: Path) -> None:
    fields = {
        "source": {"model": "x", "sha256": "0" * 64},
        **{name: {} for name in ("batch", "graph", "passes", "check")},
        **{"target": "ort-cuda", "precision": "fp32", "layout": "nhwc"},
        "ort-cuda": {"compiled": False},
    }
    bare_graph = tmp_path / "net.skeleton.onnx"
    bare_graph.write_bytes(skeleton.strip(small_graph(), {**fields, "files": {"old": {}}}))
    assert len(bare_graph.read_bytes()) < len(small_graph()) / 2
    one = skeleton.restore(bare_graph, tmp_path / "a")
    assert one.target == "ort-cuda"
    drawn = onnx.numpy_helper.to_array(onnx.load(one.file(MODEL)).graph.initializer[0])
    assert drawn.shape == (16, 32)
    assert drawn.mean() == pytest.approx(0.5, abs=0.4)
    assert drawn.std() == pytest.approx(2, abs=0.2)
    with OrtRunner(one.file(MODEL)) as opened:
        assert opened.infer({"x": np.ones((1, 16), np.float32)})["y"].shape == (1, 32)
    again = skeleton.restore(bare_graph, tmp_path / "b")
    assert again.passport["files"] == one.passport["files"], "the same numbers every time"


def test_what_is_no_skeleton_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(small_graph())
    with pytest.raises(ExporterError, match="not a graph without weights"):
        skeleton.restore(tmp_path / "x", tmp_path / "a")


class HostKernel(stand_in.Context):
    """The kernel's work, done by the host: wiring only."""

    def execute_async_v3(self, stream: int) -> bool:
        import cuda.bindings.runtime as cuda

        def work() -> None:
            count = self._batch * stand_in.WIDTH
            x, y = (
                np.ctypeslib.as_array((ctypes.c_float * count).from_address(self._addresses[name]))
                for name in "xy"
            )
            y[:] = 2 * x + 1

        if cuda.capturing is None:
            work()
        else:
            cuda.capturing.append(work)
        cuda.launched.append("kernel")
        return True


def test_the_runners_part_is_wired(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "stand_ins"))
    monkeypatch.setattr(stand_in, "Context", HostKernel)
    monkeypatch.setattr(stand_in, "load_kernel", lambda: None)
    monkeypatch.setattr(runner, "_free_bytes", lambda: 0)
    assert runner.exact() == {"max_abs_error": 0.0, "graph_without": False, "graph_with": True}
    assert runner.leaks(50)["gpu_bytes"] == 0


def test_a_busy_gpu_is_called_unstable() -> None:
    assert stability.reasons((), "", "sweep", None, gpu_busy_before=0.02) == ()
    (reason,) = stability.reasons((), "", "sweep", None, gpu_busy_before=0.97)
    assert reason == "the GPU was busy before the start: 97% of the time"


def test_without_nvml_nothing_tells_how_busy_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_watch, "read_each", lambda read: ())
    assert gpu_watch.listen(0.0) is None


def test_every_batch_size_of_the_issue_is_timed() -> None:
    assert latency.SETTINGS["cuda"].batches == (1, 8, 32, 256)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["--rehearse"], "--rehearse"),
        (["--without", "tensorrt"], "two stages"),
        (["--pack", "a", "--run", "b"], "--pack can't be used"),
        (["--gpu", "9.0"], "need --pack"),
        (["--prepare", "a", "--run", "b"], "two stages"),
    ],
)
def test_options_that_contradict_each_other(given: list[str], words: str) -> None:
    error = CliRunner().invoke(command.main, given).exception
    assert isinstance(error, WrongUse)
    assert words in error.message


def test_the_command_rehearses(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bare, "PARTS", [part("good")])
    given = ["--run", folder, "--without", "tensorrt", "--rehearse", "-o", tmp_path / "out"]
    done = CliRunner().invoke(command.main, list(map(str, given)))
    assert done.exit_code == 0, done.output
    assert handover.PREPARED in {file.name for file in folder.iterdir()}
    assert (tmp_path / "out" / bare.PAGE).is_file()
