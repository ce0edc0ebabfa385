"""The gate's verdicts, its file and its reports; ``exporter check`` on graphs made by hand."""

from __future__ import annotations

import base64
import json
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import onnx
import onnx.helper as oh
import pytest
from click.testing import CliRunner, Result
from onnx import TensorProto, numpy_helper

from benchmarks.drift.sketch import relative_change, sketch
from benchmarks.gate import baseline
from benchmarks.gate import report as gate_report
from benchmarks.gate import run as gate_run
from benchmarks.gate.baseline import Baseline, default_tolerances
from benchmarks.gate.facts import Facts, Run
from benchmarks.gate.verdict import Finding, judge
from exporter.artifact import folder as artifact
from exporter.cli.main import main

ROOT = Path(__file__).parents[3]
RNG = np.random.default_rng(0)
WEIGHT = RNG.normal(0, 1, (4, 3)).astype(np.float32)


def graph(weight: np.ndarray) -> bytes:
    made = oh.make_model(
        oh.make_graph(
            [oh.make_node("Gemm", ["x", "w", "b"], ["y"], name="head")],
            "made",
            [oh.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4])],
            [oh.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 3])],
            [
                numpy_helper.from_array(weight, "w"),
                numpy_helper.from_array(np.ones(3, np.float32), "b"),
            ],
        ),
        opset_imports=[oh.make_opsetid("", 18)],
        ir_version=10,
    )
    onnx.checker.check_model(made)
    data: bytes = made.SerializeToString()
    return data


def make_artefact(
    folder: Path, model: str = "made", weight: np.ndarray = WEIGHT, **more: Any
) -> Path:
    folder.mkdir()
    (folder / "model.onnx").write_bytes(graph(weight))
    source = {"model": model, "kind": "keras", "weights": "", "sha256": model * 8}
    passport = {
        "source": source,
        "target": "onnx",
        "precision": "fp32",
        "layout": "nhwc",
        "batch": {"min": 1, "opt": 1, "max": None},
        "graph": {"inputs": [{"name": "x"}], "outputs": [{"name": "y"}]},
        "passes": {"fold_batch_norm": {"applied": 2, "kept": []}},
        "check": {},
    }
    artifact.seal(folder, {**passport, **more})
    return folder


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    make_artefact(tmp_path / "one")
    return tmp_path


def check(*args: object) -> Result:
    options = ["check", "--baseline", "base.json", *map(str, args)]
    result = CliRunner().invoke(main, options)
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def run_of(predicted: np.ndarray, truth: np.ndarray, **more: Any) -> Run:
    values = {"keras": truth, "mean_abs_error": 0.01, "max_relative_error": 0.02, "truth": truth}
    return Run("npz:x", "cafe", "onnxruntime 1", predicted, **{**values, **more})


def facts(**more: Any) -> Facts:
    return Facts("m/ort/int8/cpu/7-bit", "s", "n", {}, 1, {}, {}, {}, {}, [], {}, **more)


def verdicts(before: Facts, now: Facts) -> dict[str, Finding]:
    return {one.figure: one for one in judge(before, now, default_tolerances())}


# --- statistics


def labels_with(lost: int, won: int, images: int = 1000) -> tuple[Facts, Facts]:
    """Two runs: of ``lost`` images the first alone is right, of ``won`` the second alone."""
    truth = np.zeros(images, np.int64)
    before, now = truth.copy(), truth.copy()
    now[:lost] = 1
    before[lost : lost + won] = 1
    return (
        facts(runs={"engine": run_of(before, truth)}),
        facts(runs={"engine": run_of(now, truth)}),
    )


def test_a_change_inside_the_interval_is_chance_and_called_so() -> None:
    found = verdicts(*labels_with(lost=6, won=4))["accuracy"]
    assert found.verdict == "within chance"
    # By hand: (5 - 7) / 1002, 1.96 * sqrt((12 / 1002 - (2 / 1002) ** 2) / 1002) to either side.
    assert "-0.20 points, 95% -0.88 to +0.48" in found.detail
    assert "p = 0.75" in found.detail


def test_a_loss_beyond_the_interval_drifts_and_a_gain_is_better() -> None:
    assert verdicts(*labels_with(lost=12, won=1))["accuracy"].verdict == "drifted"
    assert verdicts(*labels_with(lost=1, won=12))["accuracy"].verdict == "better"
    assert verdicts(*labels_with(lost=0, won=0))["accuracy"].verdict == "same"


def test_a_certain_loss_within_the_tolerance_passes() -> None:
    found = verdicts(*labels_with(lost=9, won=0, images=10_000))["accuracy"]
    assert found.verdict == "within tolerance"


def test_errors_that_are_rounding_pass_and_others_are_compared_by_growth() -> None:
    truth = np.zeros(10, np.int64)

    def runs(mean: float, worst: float) -> Facts:
        run = run_of(truth, truth, mean_abs_error=mean, max_relative_error=worst)
        return facts(runs={"engine": run})

    assert verdicts(runs(1e-7, 1e-6), runs(4e-7, 9e-6))["logits"].verdict == "same"
    assert verdicts(runs(0.01, 0.02), runs(0.01, 0.024))["logits"].verdict == "within tolerance"
    found = verdicts(runs(0.01, 0.02), runs(0.02, 0.02))["logits"]
    assert (found.verdict, found.detail) == ("drifted", "mean_abs_error 0.01 -> 0.02")
    assert (
        verdicts(runs(1e-7, 1e-6), runs(float("nan"), float("inf")))["logits"].verdict == "drifted"
    )


def test_latency_is_a_ratio_and_without_one_nothing_is_compared() -> None:
    assert verdicts(facts(), facts(latency_ratio=0.2))["latency"].verdict == "not compared"
    slow = verdicts(facts(latency_ratio=0.2), facts(latency_ratio=0.3))["latency"]
    assert slow.verdict == "drifted"


def test_every_figure_has_its_reason() -> None:
    for name, tolerance in default_tolerances().items():
        assert len(tolerance.why) > 40, name


# --- sketches


def test_a_multiple_is_measured_exactly_and_any_change_on_average() -> None:
    values = RNG.normal(0, 1, (8, 4, 3, 3))
    assert relative_change(sketch(values), sketch(1.05 * values)) == pytest.approx(0.05, rel=1e-4)
    swapped = values[[1, 0, *range(2, 8)]]
    true = np.linalg.norm(values - swapped) / np.linalg.norm(values)
    assert relative_change(sketch(values), sketch(swapped)) == pytest.approx(true, rel=0.6)
    many = [RNG.normal(0, 1, values.shape) for _ in range(50)]
    squares = [relative_change(sketch(values), sketch(values + 0.1 * one)) ** 2 for one in many]
    norms = [np.sum((0.1 * one) ** 2) / np.sum(values**2) for one in many]
    assert np.mean(squares) == pytest.approx(np.mean(norms), rel=0.25)


def test_a_sketch_is_the_same_in_every_version_of_numpy() -> None:
    # By hand: the signs of RandomState(20), whose stream numpy froze.
    bits = np.random.RandomState(20)
    signs = [np.unpackbits(np.frombuffer(bits.bytes(1), np.uint8))[:3] for _ in range(16)]
    by_hand = np.array([(2.0 * sign - 1) @ [1, 2, 4] for sign in signs], "<f4")
    assert sketch(np.array([1.0, 2.0, 4.0])) == base64.b64encode(by_hand).decode()


# --- the command


def test_no_baseline_yet_says_how_to_make_one(work: Path) -> None:
    done = check("one")
    assert done.exit_code == 4
    assert "there is no baseline yet" in done.stderr
    assert "--update" in done.stderr


def test_update_then_check_passes_and_another_weight_drifts(work: Path) -> None:
    assert check("one", "--update", "--graph-only").exit_code == 0
    done = check("one", "--junit", "out.xml", "--summary", "out.md")
    assert done.exit_code == 0, done.output
    weight = WEIGHT.copy()
    weight[0, 0] += 1
    make_artefact(work / "two", weight=weight)
    done = check("two", "--graph-only", "--junit", "out.xml", "--summary", "out.md")
    assert done.exit_code == 3
    assert "weights (BN folded): head: weight moved by" in done.stderr
    assert "1 figure drifted" in done.stderr
    suites = ElementTree.parse(work / "out.xml").getroot()
    (failed,) = [case for case in suites.iter("testcase") if case.find("failure") is not None]
    assert failed.get("name") == "weights"
    written = (work / "out.md").read_text()
    assert written.count("## exporter check") == 2  # appended
    assert "**drifted**" in written


def test_update_without_images_is_refused_and_says_what_to_add(work: Path) -> None:
    done = check("one", "--update")
    assert done.exit_code == 2
    assert "--data" in done.stderr
    assert not (work / "base.json").exists()
    assert check("one", "--limit", 3).exit_code == 2
    assert check("one", "--graph-only", "--data", "npz:x").exit_code == 2


def test_a_baseline_of_another_model(work: Path) -> None:
    assert check("one", "--update", "--graph-only").exit_code == 0
    make_artefact(work / "other", "other")
    done = check("other")
    assert done.exit_code == 4
    assert "base.json has no baseline for other/onnx/fp32: it is for other models" in done.stderr
    ports = {"inputs": [{"name": "z"}], "outputs": [{"name": "y"}]}
    source = {"model": "made", "kind": "keras", "weights": "", "sha256": "else"}
    make_artefact(work / "namesake", graph=ports, source=source)
    done = check("namesake")
    assert done.exit_code == 2
    assert "another model under the name made/onnx/fp32" in done.stderr


def test_what_drifted_comes_before_what_is_missing(work: Path) -> None:
    assert check("one", "--update", "--graph-only").exit_code == 0
    make_artefact(work / "other", "other")
    make_artefact(work / "two", weight=2 * WEIGHT)
    assert check("other", "two").exit_code == 3
    done = check("other", "one", "--json")
    assert done.exit_code == 4
    results = json.loads(done.stdout)["results"]
    assert [bool(one["missing"]) for one in results] == [True, False]


def test_weights_of_another_width_are_missing_and_no_false_alarm(work: Path) -> None:
    def int8(reduce_range: bool) -> dict[str, Any]:
        return {"scheme": "cpu", "reduce_range": reduce_range, "warnings": []}

    make_artefact(work / "seven", precision="int8", int8=int8(True))
    make_artefact(work / "eight", precision="int8", int8=int8(False))
    assert check("seven", "--update", "--graph-only").exit_code == 0
    done = check("eight")
    assert done.exit_code == 4
    assert "base.json has no baseline for made/onnx/int8/cpu/8-bit" in done.stderr
    assert "without VNNI" in done.stderr


def test_an_artefact_without_a_passport(work: Path) -> None:
    (work / "bare").mkdir()
    done = check("bare")
    assert done.exit_code == 2
    assert "it has no passport.json" in done.stderr


def edit(work: Path, change: Any) -> Result:
    assert check("one", "--update", "--graph-only").exit_code == 0
    content = json.loads((work / "base.json").read_text())
    change(content)
    (work / "base.json").write_text(json.dumps(content))
    return check("one")


def test_a_newer_format(work: Path) -> None:
    done = edit(work, lambda content: content.update(format=2, entries="unknown"))
    assert done.exit_code == 1
    assert "base.json has format 2, but this version reads only up to format 1" in done.stderr


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda c: c.pop("entries"), "no 'entries'"),
        (lambda c: c.pop("format"), "no format number"),
        (lambda c: c["entries"]["made/onnx/fp32"].pop("layers"), "no 'layers'"),
        (lambda c: c["entries"]["made/onnx/fp32"].update(ops=[]), "'ops' of made/onnx/fp32"),
        (lambda c: c["tolerances"]["weights"].update(why=" "), "'weights' has no reason"),
        (lambda c: c["tolerances"]["weights"].update(within=-1), "not a number of 0 or more: -1"),
        (lambda c: c["tolerances"].update(wieghts={}), "unknown figures: wieghts"),
        (lambda c: c["tolerances"].pop("weights"), "no 'weights'"),
    ],
)
def test_a_damaged_baseline(work: Path, change: Any, words: str) -> None:
    done = edit(work, change)
    assert done.exit_code == 1
    assert "base.json is damaged" in done.stderr
    assert words in done.stderr
    # And an update does not write over what it could not read.
    before = (work / "base.json").read_text()
    assert check("one", "--update", "--graph-only").exit_code == 1
    assert (work / "base.json").read_text() == before


def test_a_baseline_cut_short(work: Path) -> None:
    assert check("one", "--update", "--graph-only").exit_code == 0
    text = (work / "base.json").read_text()
    for left in (len(text) // 2, 0):
        (work / "base.json").write_text(text[:left])
        done = check("one")
        assert done.exit_code == 1
        assert "base.json" in done.stderr
        assert len(done.stderr.splitlines()) <= 3, "one message, no trace"


# --- the file


def test_ten_thousand_predictions_come_back_from_a_small_file(tmp_path: Path) -> None:
    keras = RNG.integers(0, 10, 10_000)
    predicted = keras.copy()
    predicted[:53] = (predicted[:53] + 1) % 10
    one = facts(runs={"engine": run_of(predicted, keras)})
    baseline.save(Baseline({one.key: one}), tmp_path / "b.json")
    assert (tmp_path / "b.json").stat().st_size < 20_000
    back = baseline.load(tmp_path / "b.json").entries[one.key].runs["engine"]
    np.testing.assert_array_equal(back.predicted, predicted)
    np.testing.assert_array_equal(back.keras, keras)


def test_tolerances_of_the_file_count_and_an_update_keeps_them(work: Path) -> None:
    loose = {"within": 9.0, "why": "for this test, anything goes"}
    edit(work, lambda content: content["tolerances"].update(weights=loose))
    make_artefact(work / "two", weight=2 * WEIGHT)
    assert check("two").exit_code == 0
    assert check("two", "--update", "--graph-only").exit_code == 0
    assert json.loads((work / "base.json").read_text())["tolerances"]["weights"] == loose


def test_a_machine_without_a_gpu_keeps_what_one_with_it_measured() -> None:
    truth = np.zeros(10, np.int64)
    engine = facts(fused={"convolutions in INT8": 20}, runs={"engine": run_of(truth, truth)})
    simulated = facts(runs={"simulated": run_of(truth, truth)})
    book = Baseline().updated(engine).updated(simulated)
    (entry,) = book.entries.values()
    assert set(entry.runs) == {"engine", "simulated"}
    assert entry.fused == {"convolutions in INT8": 20}
    other = replace(simulated, folded=0)  # another graph: what the GPU said of the old one goes
    (entry,) = book.updated(other).entries.values()
    assert set(entry.runs) == {"simulated"}
    assert entry.fused is None


def test_a_baseline_of_the_other_kind_compares_no_accuracy_and_says_so(work: Path) -> None:
    """Made where there is no GPU and checked on a Jetson, it used to pass with nothing measured."""
    assert check("one", "--update", "--graph-only").exit_code == 0
    refused = check("one", "--data", "npz:x")
    assert refused.exit_code == 2
    assert "was made with --graph-only" in refused.output
    one, book = artifact.read(work / "one"), baseline.load(work / "base.json")
    (entry,) = book.entries.values()
    truth = np.zeros(10, np.int64)
    book = book.updated(replace(entry, runs={"simulated": run_of(truth, truth)}))
    (result,) = gate_run.compare([one], [entry], book, work / "base.json", update=False)
    assert result.missing is not None
    assert "was measured as simulated, but here it runs as engine" in result.missing
    assert result.findings, "the graph was compared all the same"
    shown = gate_report.markdown([result], work / "base.json")
    assert "Not compared: accuracy was not compared" in shown
    assert all(finding.figure in shown for finding in result.findings)
    (suite,) = ElementTree.fromstring(gate_report.junit([result]))
    assert len(suite) == int(suite.attrib["tests"]) == len(result.findings) + 1
    graph_only = {"update": False, "graph_only": True}
    (result,) = gate_run.compare([one], [entry], book, work / "base.json", **graph_only)
    assert result.missing is None


def test_the_committed_baseline_reads() -> None:
    committed = ROOT / "benchmarks" / "baseline.json"
    if not committed.exists():
        pytest.skip("no benchmarks/baseline.json yet")
    entries = baseline.load(committed).entries
    assert entries
    assert committed.stat().st_size < 25_000 * len(entries), "small enough for its diff to be read"
