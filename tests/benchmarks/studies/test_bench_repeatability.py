"""Whether two runs agree: the counting by hand, and one real run beside a spinning process."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from click.testing import CliRunner

from benchmarks.latency import bench as latency
from benchmarks.latency import machine_watch
from benchmarks.latency.result import Ratio
from benchmarks.studies import bench_repeatability
from benchmarks.studies.bench_repeatability import judge, load_on, main, overlap
from exporter.errors import ExporterError
from tests.benchmarks.latency.test_latency import SAMPLE
from tests.benchmarks.latency_jobs import tiny


def ratio(low: float, high: float) -> Ratio:
    return Ratio("keras", (low + high) / 2, low, high)


def test_intervals_overlap_where_they_share_a_value() -> None:
    assert overlap(ratio(3.8, 4.0), ratio(4.0, 4.2))
    assert overlap(ratio(3.0, 5.0), ratio(3.9, 4.0))
    assert not overlap(ratio(3.8, 4.0), ratio(4.01, 4.2))
    assert not overlap(ratio(4.01, 4.2), ratio(3.8, 4.0))


def test_nine_of_ten_pairs_are_enough_and_eight_are_not() -> None:
    agree, differ = (
        ({"a": ratio(3, 4)}, {"a": ratio(3.5, 5)}),
        ({"a": ratio(3, 4)}, {"a": ratio(5, 6)}),
    )
    nine = judge([*[agree] * 9, differ])
    assert (nine["agreeing"], nine["compared"], nine["repeatable"]) == (9, 10, True)
    assert nine["text"].startswith("repeatable:")
    eight = judge([*[agree] * 8, differ, differ])
    assert not eight["repeatable"]
    assert eight["text"].endswith("a: 8 of 10")


def test_every_ratio_must_agree_by_itself_and_what_failed_is_left_out() -> None:
    first = {"a": ratio(3, 4), "b": ratio(1, 2), "gone": ratio(1, 2)}
    second = {"a": ratio(3, 4), "b": ratio(3, 4)}
    found = judge([(first, second)])
    assert found["by_ratio"] == {
        "a": {"agreeing": 1, "compared": 1},
        "b": {"agreeing": 0, "compared": 1},
    }
    assert not found["repeatable"]
    with pytest.raises(ExporterError, match="no ratio"):
        judge([({}, second)])


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="cores can't be chosen here")
def test_the_script_runs_pairs_and_notices_a_load(
    tmp_path: Path, tiny_data: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    cores = latency.choose_cores(1)
    if machine_watch.read(cores).busy_s is None:
        pytest.skip("/proc/stat tells nothing here")
    one, other = tiny(tmp_path / "a"), tiny(tmp_path / "b")
    # The listening is real, and so is the load; only the blocks are not.
    monkeypatch.setattr(latency, "_LISTEN_S", 0.3)
    monkeypatch.setattr(latency, "time_apart", lambda _: dict(SAMPLE))
    file = tmp_path / "out.json"
    given = [str(one.path), str(other.path), "--against", "none", "--data", tiny_data]
    given += ["--threads", "1", "--seconds", "0", "--pairs", "1", "--with-load", "-o", str(file)]
    result = CliRunner().invoke(main, given)
    report = json.loads(file.read_text())
    assert list(report["verdict"]["by_ratio"]) == [f"{other.path}, batch 1"]
    assert len(report["pairs"][0]) == 2
    assert report["with_load"]["noticed"], report["with_load"]
    assert "a process spinning on one core: noticed" in result.stdout
    assert result.exit_code == 0, result.output


def test_the_load_ends_with_its_block() -> None:
    core = latency.choose_cores(1)[-1]
    with load_on(core):
        busy = machine_watch.listen([core], 0.3)
    assert busy is None or busy > 0.3


def test_a_load_that_goes_unnoticed_is_said() -> None:
    runs = [[{"unstable": []}, {"unstable": ["x"]}]]
    report = {"pairs": runs, "verdict": {"text": "repeatable"}}
    loaded = {"noticed": False, "unstable": []}
    lines = bench_repeatability.verdicts({**report, "with_load": loaded})
    assert lines[1] == "runs that called themselves unstable: 1 of 2"
    assert "NOT noticed" in lines[2]
