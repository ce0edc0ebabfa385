"""What all studies share: a report that grows, kept cells, processes of their own, options."""

from __future__ import annotations

import json
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from benchmarks.latency import worker
from benchmarks.studies import study
from benchmarks.studies.study import Cell, Run
from exporter.errors import ExporterError, GateRefused


@study.command("toy", "toy.json")
@click.option("--sizes", callback=study.listed(study.COUNT), default="1,2")
@click.option("--fail", is_flag=True)
def toy(log: Run, sizes: tuple[int, ...], fail: bool) -> None:
    """Measure nothing."""
    log.start(sizes=sizes)
    for size in sizes:
        log.save(**{f"cell {size}": size})
    if fail:
        raise GateRefused("no")


def test_a_report_says_what_made_it(tmp_path: Path) -> None:
    file = tmp_path / "new" / "toy.json"
    done = CliRunner().invoke(toy, ["--sizes", "3, 4,3", "-o", str(file)])
    assert done.exit_code == 0, done.output
    assert done.stdout == f"all figures: {file}\n"
    report = json.loads(file.read_text())
    assert set(report) > {"date", "machine", "versions"}
    assert (report["benchmark"], report["sizes"]) == ("toy", [3, 4])
    assert report["command"].startswith("python -m benchmarks.studies.toy")


def test_a_run_that_fails_keeps_and_names_its_report(tmp_path: Path) -> None:
    file = tmp_path / "toy.json"
    done = CliRunner().invoke(toy, ["--fail", "-o", str(file)])
    assert isinstance(done.exception, GateRefused)
    assert f"all figures: {file}" in done.stdout
    assert json.loads(file.read_text())["cell 2"] == 2


def test_a_bad_value_in_a_list_is_wrong_use() -> None:
    done = CliRunner().invoke(toy, ["--sizes", "1,0"])
    assert done.exit_code == 2
    assert "0 is not in the range" in done.output


def test_a_run_without_a_file_writes_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    log = Run("toy", None)
    log.start()
    log.save(cell=1)
    assert log.report["cell"] == 1
    assert not log.saved
    assert not list(tmp_path.iterdir())


def test_a_cell_is_measured_again_only_if_it_must_be(tmp_path: Path) -> None:
    file, answers = tmp_path / "work" / "cell.json", [{"failed": "x"}, {"ms": 1}, {"ms": 2}]
    measured: list[Cell] = []

    def measure() -> Cell:
        measured.append(answers[min(len(measured), 2)])
        return measured[-1]

    def kept(version: str, *, resume: bool = True) -> tuple[int | None, int]:
        found = study.kept(file, measure, {"version": version}, resume=resume)
        return found.get("ms"), len(measured)

    assert kept("a") == (None, 1)
    assert kept("a") == (1, 2), "it failed before"
    assert kept("a") == (1, 2)
    assert kept("b") == (2, 3), "it was made for something else"
    assert kept("b", resume=False) == (2, 4)
    assert [path.name for path in file.parent.iterdir()] == ["cell.json"]


def double(path: str, number: int) -> Cell:
    if number < 0:
        raise ExporterError(f"{number} is negative")
    return {"path": path, "doubled": 2 * number}


def test_a_function_runs_in_a_process_of_its_own() -> None:
    found = worker.need(*study.job(double, Path("a/b"), 4))
    assert found == {"path": "a/b", "doubled": 8}
    with pytest.raises(ExporterError, match="-1 is negative"):
        worker.need(*study.job(double, "", -1))
