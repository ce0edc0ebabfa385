"""The bookkeeping of the export-time benchmark; its timings are no test's business."""

from __future__ import annotations

import json
from itertools import product

import pytest
from click.testing import CliRunner

from benchmarks.latency import worker
from benchmarks.latency.bootstrap import ratio_interval
from benchmarks.studies import export_time
from benchmarks.studies.export_time import STEPS, summarize

OURS = [2.0, 2.3, 1.9, 2.8, 2.1]
KERAS = [9.0, 9.9, 8.1, 13.0, 9.4]


def sample(tool: str, number: int, seconds: float) -> export_time.Sample:
    steps = {step: seconds * (i + 1) for i, step in enumerate(STEPS)} if tool == "ours" else {}
    common = {"model": "resnet18", "tool": tool, "round": number}
    return {**common, "seconds": seconds, "load_s": 1.0, "steps_s": steps, "bytes": 1}


def test_summary_pairs_by_round_whatever_the_order() -> None:
    samples = [sample("ours", i, x) for i, x in enumerate(OURS)]
    samples += [sample("keras", i, x) for i, x in enumerate(KERAS)]
    summary = summarize(samples[::-1], "resnet18")
    assert (summary["ours_s"], summary["keras_s"]) == (2.1, 9.4)
    assert summary["ratio"] == 2.1 / 9.4
    assert summary["ratio_interval_95"] == list(ratio_interval(OURS, KERAS))
    assert summary["ours_steps_s"] == {step: 2.1 * (i + 1) for i, step in enumerate(STEPS)}


def test_one_round_has_no_interval() -> None:
    summary = summarize([sample("ours", 0, 2.0), sample("keras", 0, 8.0)], "resnet18")
    assert summary["ratio"] == 0.25
    assert summary["ratio_interval_95"] is None


def test_every_round_measures_everything_once(monkeypatch: pytest.MonkeyPatch) -> None:
    turns: list[tuple[str, str]] = []

    def measured(_: str, job: str) -> export_time.Sample:
        turns.append(tuple(json.loads(job)[2]))
        return {"seconds": 1.0}

    monkeypatch.setattr(worker, "need", measured)
    models = ("resnet18", "resnet50")
    export_time.run(models, 6, 1, lambda line: None)
    once = sorted(product(export_time.TOOLS, models))
    rounds = [turns[i : i + 4] for i in range(0, 24, 4)]
    assert all(sorted(each) == once for each in rounds)
    assert len({tuple(each) for each in rounds}) > 1, "the order changes"
    first, turns[:] = list(turns), []
    export_time.run(models, 6, 1, lambda line: None)
    assert turns == first, "the seed settles the order"


def test_unknown_model_is_refused_before_anything_runs() -> None:
    result = CliRunner().invoke(export_time.main, ["--models", "resnet18,resnet5o"])
    assert result.exit_code == 2
    assert "resnet50" in result.output
