"""Claims about GPUs come from result files, and from nowhere else."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import pytest

from benchmarks.studies import device_claims
from benchmarks.studies.device_claims import NEVER, SUBJECTS, claim, fill, overall
from benchmarks.studies.doc_tables import TABLES, acceptance_runs, pages

ROOT = Path(__file__).parents[3]
RUNNER = next(subject for subject in SUBJECTS if subject.name == "runner")


def report(**statuses: str) -> dict[str, Any]:
    """Return a result with these parts, run on a GPU of a made-up name."""
    parts = [
        {"name": name, "status": status, "reason": f"why {name}\nmore"}
        for name, status in statuses.items()
    ]
    return {"rehearsed": False, "gpu": {"devices": [{"name": "Card X"}]}, "parts": parts}


def test_without_a_result_nothing_ran() -> None:
    assert claim(RUNNER, []) == NEVER
    assert overall([]) == "Nothing in this project has run on a GPU yet"


def test_a_result_changes_its_claim_and_no_other() -> None:
    text = "".join(f"<!-- ran:{row.name} -->old<!-- /ran -->\n" for row in SUBJECTS)
    before, after = fill(text, []).splitlines(), fill(text, [report(runner="ok")]).splitlines()
    changed = [new for old, new in zip(before, after, strict=True) if old != new]
    assert changed == ["<!-- ran:runner -->run on Card X<!-- /ran -->"]
    assert fill("<!-- ran:anything --><!-- /ran -->", [report()]) == (
        "<!-- ran:anything -->Parts of this project have run on Card X<!-- /ran -->"
    )


def test_a_failure_is_told_with_its_first_line() -> None:
    assert claim(RUNNER, [report(runner="failed")]) == "failed on Card X (failed: why runner)"
    two = [report(runner="failed"), report(runner="ok")]
    two[1]["gpu"]["devices"][0]["name"] = "Card Y"
    assert claim(RUNNER, two) == "run on Card Y; failed on Card X (failed: why runner)"


@pytest.mark.parametrize("change", ["rehearsed", "no device", "skipped", "absent"])
def test_what_shows_nothing_of_a_gpu_claims_nothing(change: str) -> None:
    one = copy.deepcopy(report(runner="ok"))
    if change == "rehearsed":
        one["rehearsed"] = True
    elif change == "no device":
        one["gpu"]["devices"] = []
    elif change == "skipped":
        one["parts"][0]["status"] = "skipped"
    else:
        one["parts"] = []
    assert claim(RUNNER, [one]) == NEVER


def test_a_claim_about_jetsons_takes_a_jetson() -> None:
    jetson = next(subject for subject in SUBJECTS if subject.name == "jetson")
    assert claim(jetson, [report(tensorrt="ok")]) == NEVER
    one = report(tensorrt="ok")
    one["gpu"]["devices"][0]["name"] = "Orin (nvgpu)"
    assert claim(jetson, [one]) == "run on Orin (nvgpu)"


def test_an_error_text_can_not_break_the_table() -> None:
    one = report(runner="failed")
    one["parts"][0]["reason"] = "a | b <!-- /ran --> c"
    assert "|" not in claim(RUNNER, [one])
    text = fill("<!-- ran:runner --><!-- /ran -->", [one])
    assert fill(text, [one]) == text


def test_a_mark_of_no_subject_is_an_error() -> None:
    with pytest.raises(ValueError, match="no subject 'nope'"):
        fill("<!-- ran:nope --><!-- /ran -->", [])


@pytest.mark.parametrize("page", [ROOT / "README.md", *TABLES], ids=lambda page: page.name)
def test_pages_of_results_have_marks(page: Path) -> None:
    assert "<!-- ran:" in page.read_text(encoding="utf-8")


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_pages_claim_nothing_outside_of_marks(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    outside = re.sub(r"<!-- ran:.*?<!-- /ran -->", "", text, flags=re.DOTALL)
    # Of a simulation it is a fact, whatever ran elsewhere.
    told = [line for line in outside.splitlines() if re.search(r"run on an? .*GPU", line)]
    assert [line for line in told if "imulat" not in line] == []


def test_the_code_makes_no_claim_of_its_own() -> None:
    """The phrase may only be a fact about one artifact or one simulation."""
    found = {
        file.relative_to(ROOT).as_posix()
        for package in ("exporter", "benchmarks")
        for file in (ROOT / package).rglob("*")
        if file.suffix in (".py", ".md") and re.search(CLAIM, file.read_text(encoding="utf-8"))
    }
    assert found == FACTS


CLAIM = re.compile("not run on a gpu|has run on a gpu", re.IGNORECASE)
# Each says of one artifact, plan or simulation that it was not run on a GPU.
FACTS = {
    "benchmarks/README.md",
    "benchmarks/studies/device_claims.py",
    "benchmarks/gpu_acceptance/bare.py",
    "benchmarks/gpu_acceptance/prepare.py",
    "benchmarks/studies/int8_comparison.py",
    "benchmarks/studies/precision_accuracy.py",
    "benchmarks/studies/recovery.py",
    "benchmarks/report/data.py",
    "benchmarks/report/layers.py",
    "benchmarks/studies/rtx_builds.py",
    "exporter/targets/_ort_two_steps.py",
    "exporter/targets/trt.py",
    "exporter/targets/trt_rtx.py",
}


def test_kept_results_are_read() -> None:
    for one in acceptance_runs():
        assert set(one) >= {"rehearsed", "gpu", "parts"}
    assert device_claims.table(acceptance_runs()).count("\n") == len(SUBJECTS) + 1
