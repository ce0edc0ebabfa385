"""The versions matrix on a tiny network, with this Python and made-up runtimes as environments."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from click.testing import CliRunner

from benchmarks.accuracy import original
from benchmarks.drift.graphs import Graphs
from benchmarks.studies import environments, versions_matrix, versions_run
from benchmarks.studies.versions_cells import Cell, compare, drifts, report, show
from benchmarks.studies.versions_run import Answer
from benchmarks.studies.versions_worker import Job
from exporter.artifact import folder as artifact
from exporter.errors import GateRefused, Missing, WrongUse
from exporter.network.sources import Source
from exporter.progress import silent
from tests.benchmarks.drift.test_drift import COUNT, OnnxAsKeras, network, pixels, quantized, tiny

IMAGES = 1000
here = partial(versions_run.run_with, Path(sys.executable))


# --- verdicts


def logits_with(wrong: int) -> np.ndarray:
    """Of `IMAGES` images of class 0, so many are given class 1."""
    logits = np.tile(np.float32([1, 0, 0]), (IMAGES, 1))
    logits[:wrong] = [0, 1, 0]
    return logits


def cells(*answers: Answer) -> list[Cell]:
    by_version = {f"1.{number}": answer for number, answer in enumerate(answers)}
    keras, labels = logits_with(0), np.zeros(IMAGES, np.int64)
    return compare("art", "engine", by_version, keras, labels)


def answer(wrong: int = 0, **ops: int) -> Answer:
    return Answer({"onnxruntime": "1"}, logits_with(wrong), ops)


def test_versions_that_are_alike_pass_strictly_too() -> None:
    found = cells(answer(Conv=2), answer(Conv=2))
    assert drifts(found, strict=True) == []
    assert found[0].against_first is None
    assert found[1].against_first is not None
    assert found[1].against_first.noise == 0


def test_one_label_is_chance_and_only_strictness_stops_it() -> None:
    found = cells(answer(0), answer(1))
    assert drifts(found, strict=False) == []
    (said,) = drifts(found, strict=True)
    assert said == "art, engine, onnxruntime 1.1: 1 images get another label"


def test_a_loss_beyond_chance_drifts_and_is_corrected_for_the_number_of_tests() -> None:
    # By hand: 6 images lost, none won: p = 2 / 2**6 = 0.031; twice that, of two tests, is chance.
    assert len(drifts(cells(answer(0), answer(6)), strict=False)) == 1
    assert drifts(cells(answer(0), answer(6), answer(0)), strict=False) == []
    (said,) = drifts(cells(answer(0), answer(8), answer(0)), strict=False)
    assert "onnxruntime 1.1: top-1 -0.80 points (8 images lost, 0 won)" in said
    assert "p 0.0078, 0.016 of 2 tests" in said


def test_other_ops_are_told_and_stop_only_where_asked_to() -> None:
    found = cells(answer(QLinearConv=2), answer(QLinearConv=1, Conv=1))
    assert found[1].ops_changed == {"Conv": (0, 1), "QLinearConv": (2, 1)}
    assert drifts(found, strict=False) == []
    assert drifts(found, strict=True)[0].endswith("other ops: Conv 0 -> 1, QLinearConv 2 -> 1")


def test_a_refusal_and_logits_that_are_not_finite_drift() -> None:
    broken = logits_with(0)
    broken[3, 1] = np.nan
    refused = Answer({}, refused="IR version 10 is too new")
    found = cells(answer(), refused, Answer({}, broken, {}))
    assert drifts(found, strict=False) == [
        "art, engine, onnxruntime 1.1: refused: IR version 10 is too new",
        "art, engine, onnxruntime 1.2: its logits are not finite",
    ]
    assert found[1].as_json()["failed"] == "refused: IR version 10 is too new"
    json.dumps(report(found), allow_nan=False)


def test_where_the_first_refuses_nothing_is_held_against_it() -> None:
    found = cells(Answer({}, refused="no"), answer(9))
    assert found[1].against_first is None
    assert [said.rpartition(": ")[2] for said in drifts(found, strict=True)] == ["no"]


def test_a_table_shows_every_version_and_fits_a_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    found = cells(answer(Conv=2), answer(3, Conv=1), Answer({}, refused="no"))
    show(found)
    lines = capsys.readouterr().out.splitlines()
    assert "art, engine" in lines[0]
    assert sum("1." in line[:8] for line in lines) == 3
    assert any("0.9970" in line and "-0.30" in line and "Conv 2 ->" in line for line in lines)
    assert any("1.2" in line and "failed" in line for line in lines)


# --- environments


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("1.23.2", "two or more different versions"),
        ("1.23.2,1.23.2", "two or more different versions"),
        ("1.23.2,latest", "no version of onnxruntime: 'latest'"),
        ("1.23.2,../1.0", "no version of onnxruntime"),
        ("1.23.2,1.*", "no version of onnxruntime"),
    ],
)
def test_what_is_no_list_of_versions(text: str, words: str) -> None:
    with pytest.raises(WrongUse, match=words):
        environments.parse_versions(text)


def test_an_environment_is_made_once_and_anew_if_it_was_interrupted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[list[str]] = []

    def run(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        ran.append(command)
        (tmp_path / f"onnxruntime-1.2.3-python{sys.version_info[0]}.{sys.version_info[1]}").mkdir(
            exist_ok=True
        )
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(subprocess, "run", run)
    python = environments.prepare("1.2.3", tmp_path)
    assert [command[2] for command in ran] == ["venv", "pip"]
    assert ran[1][-2:] == ["onnxruntime==1.2.3", f"numpy=={np.__version__}"]
    assert ran[1][0] == str(python)
    assert environments.prepare("1.2.3", tmp_path) == python
    assert len(ran) == 2
    (python.parents[1] / ".installed").unlink()
    environments.prepare("1.2.3", tmp_path)
    assert len(ran) == 4


def test_a_version_that_pip_has_not_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed = subprocess.CompletedProcess([], 1, "", "ERROR: No matching distribution found")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: failed)
    with pytest.raises(Missing, match=r"onnxruntime 9\.9") as caught:
        environments.prepare("9.9", tmp_path)
    assert "No matching distribution" in str(caught.value.hint)


# --- runs


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Source:
    """An INT8 artefact whose Keras is an honest graph, and labelled images, in this folder."""
    source, labels = tiny()
    np.savez(tmp_path / "data.npz", images=pixels(), labels=labels)
    folded = network(folded=True)
    folder = tmp_path / "art"
    folder.mkdir()
    (folder / "model.onnx").write_bytes(quantized(folded))
    fields: dict[str, Any] = {
        "source": {"sha256": "", "model": "tiny", "kind": "keras", "weights": ""},
        **{"target": "ort", "precision": "int8", "layout": "nchw", "int8": {}},
        "batch": {"min": 7, "opt": 7, "max": 7},  # the last batch must be filled up
        **{"graph": {}, "passes": {}, "check": {}},
    }
    artifact.seal(folder, fields)
    graphs = Graphs(source.model, folded, True, "by hand")
    monkeypatch.setattr(versions_matrix, "load_original", lambda *_: source)
    monkeypatch.setattr(original, "KerasRunner", OnnxAsKeras)
    monkeypatch.setattr(versions_matrix, "remake", lambda *_: graphs)
    monkeypatch.chdir(tmp_path)
    return source


def session_logits(graph: bytes, images: np.ndarray, level: Any) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = level
    session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    logits: np.ndarray = session.run(["y"], {"x": images})[0]
    return logits


def test_every_rung_runs_as_the_ladder_runs_it(world: Source) -> None:
    asked: list[Job] = []

    def remember(job: Job) -> Answer:
        asked.append(job)
        return here(job)

    one = artifact.read(Path("art"))
    found = versions_matrix.measure([one], {"1.0": remember}, "npz:data.npz", None, 1, silent)
    assert [cell.rung for cell in found] == ["onnx", "folded", "simulated", "engine"]
    assert [job.as_written for job in asked] == [True, True, True, False]
    assert [job.batch for job in asked] == [7, 7, 7, 7]
    images = pixels().astype(np.float32) / 255
    levels = onnxruntime.GraphOptimizationLevel
    for number, graph, x, level in (
        (0, network(folded=False), images, levels.ORT_DISABLE_ALL),
        (2, quantized(network(folded=True)), images.transpose(0, 3, 1, 2), levels.ORT_DISABLE_ALL),
    ):
        got = found[number].answer.logits
        assert got is not None
        assert got.shape == (COUNT, 6)
        # One ulp or two: a batch of another size may sum in another order.
        np.testing.assert_allclose(got, session_logits(graph, x, level), rtol=1e-5, atol=1e-5)
    written, executed = found[2].answer.ops, found[3].answer.ops
    assert written is not None
    assert executed is not None
    assert written["Conv"] == 2
    assert executed["com.microsoft::QLinearConv"] == 2
    assert "Conv" not in executed


def run(*args: object) -> Any:
    options = ["art", "--data", "npz:data.npz", "--onnxruntime", "1.0,2.0", "-o", "out.json"]
    return CliRunner().invoke(versions_matrix.main, [*options, *map(str, args)])


def test_two_environments_by_the_command(world: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environments, "prepare", lambda *_: Path(sys.executable))
    done = run("--strict", "--limit", 20, "--threads", 1)
    assert done.exit_code == 0, done.output
    content = json.loads(Path("out.json").read_text())
    assert content["drifted"] == []
    assert content["environments"]["2.0"]["onnxruntime"] == onnxruntime.__version__
    first, second = content["results"][0]["versions"]
    assert first["images"] == 20
    assert second["against_first"]["noise"] == 0
    assert second["executed_ops"] == first["executed_ops"]


def test_a_runtime_that_swaps_two_classes_ends_the_command_with_3(
    world: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run_with(python: str, job: Job) -> Answer:
        got = here(job)
        assert got.logits is not None
        wrong = got.logits[:, ::-1] if (python, job.rung) == ("2.0", "engine") else got.logits
        return Answer(got.versions, wrong, got.ops)

    monkeypatch.setattr(environments, "prepare", lambda version, _: version)
    monkeypatch.setattr(versions_run, "run_with", run_with)
    done = run("--rung", "engine", "--rung", "simulated")
    assert isinstance(done.exception, GateRefused)
    assert done.exception.exit_code == 3
    content = json.loads(Path("out.json").read_text())
    assert [row["rung"] for row in content["results"]] == ["simulated", "engine"]
    (said,) = content["drifted"]
    assert said.startswith("art, engine, onnxruntime 2.0: top-1 -")


def test_rungs_that_the_artefact_has_not_are_wrong_use(
    world: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(environments, "prepare", lambda *_: Path(sys.executable))
    monkeypatch.setattr(versions_run, "jobs", lambda *_: [])
    done = run("--rung", "simulated")
    assert isinstance(done.exception, WrongUse)
    assert "none of simulated" in str(done.exception)
    assert not Path("out.json").exists()


def test_a_graph_that_the_runtime_refuses_is_an_answer(tmp_path: Path) -> None:
    (tmp_path / "bad.onnx").write_bytes(b"no graph")
    np.save(tmp_path / "x.npy", np.zeros((3, 2), np.float32))
    providers = ("CPUExecutionProvider",)
    files = (str(tmp_path / "bad.onnx"), str(tmp_path / "x.npy"))
    job = Job("folded", *files, 2, True, 1, providers, ())
    got = here(job)
    assert got.logits is None
    assert "bad.onnx" in (got.refused or "")
    assert got.versions["onnxruntime"] == onnxruntime.__version__
