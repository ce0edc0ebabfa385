"""How a benchmark ends that can't go on: as ``exporter`` does, with one line and a code."""

from __future__ import annotations

import pytest

from benchmarks import command
from benchmarks.latency import worker
from benchmarks.studies import layer_times, study
from exporter.errors import Missing


def test_an_error_on_purpose_is_a_line_and_its_code(capsys: pytest.CaptureFixture[str]) -> None:
    def main() -> None:
        raise Missing("no such library", hint="install it")

    with pytest.raises(SystemExit) as ended:
        command.run(main)
    assert ended.value.code == 4
    assert capsys.readouterr().err.startswith("error: no such library")


def test_so_is_what_a_process_of_its_own_refused(capsys: pytest.CaptureFixture[str]) -> None:
    job = study.job(layer_times.profile, "nowhere", 1, 1, [])
    with pytest.raises(SystemExit) as ended:
        command.run(lambda: worker.need(*job))
    assert ended.value.code == 1
    assert "nowhere is not an artifact" in capsys.readouterr().err
