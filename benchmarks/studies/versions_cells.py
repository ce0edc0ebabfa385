"""Versions of onnxruntime compared with the first: what differs, and whether it is chance."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.accuracy.measure import Logits
from benchmarks.accuracy.paired import LEVEL, Paired
from benchmarks.drift.ladder import Change, Labels, changed
from benchmarks.studies.versions_run import Answer
from exporter.cli import console

_OPS_SHOWN = 6


@dataclass(frozen=True)
class Cell:
    """One rung of one artifact in one version.

    Attributes:
        artefact: its folder.
        rung: of its ladder.
        version: of onnxruntime.
        answer: the version's.
        failed: why there is nothing to compare: a refusal, or logits that are not finite.
        against_keras: None if it failed.
        against_first: against the first version; None for the first itself, or if either failed.
        ops_changed: executed ops whose count differs: the first version's count, and this one's.
    """

    artefact: str
    rung: str
    version: str
    answer: Answer
    failed: str | None = None
    against_keras: Change | None = None
    against_first: Change | None = None
    ops_changed: Mapping[str, tuple[int, int]] | None = None

    def as_json(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        keras = self.against_keras
        return {
            "version": self.version,
            "failed": self.failed,
            "images": keras and keras.accuracy.images,
            "correct": keras and keras.accuracy.correct,
            "top1": keras and keras.accuracy.top1,
            "against_keras": keras and keras.as_json(),
            "against_first": self.against_first and self.against_first.as_json(),
            "executed_ops": self.answer.ops,
            "executed_ops_changed": self.ops_changed,
        }


def compare(
    artefact: str, rung: str, answers: Mapping[str, Answer], keras: Logits, labels: Labels
) -> list[Cell]:
    """Compare every version's answer to one job with Keras and with the first version.

    Args:
        artefact: its folder.
        rung: of the job.
        answers: by version, at least one.
        keras: (images, classes).
        labels: (images,).
    """
    (first, reference), *_ = answers.items()
    cells = []
    for version, answer in answers.items():
        failed = _failure(answer)
        against_keras = against_first = moved = None
        if not failed and answer.logits is not None:
            against_keras = changed(version, keras, answer.logits, labels)
            if version != first and reference.logits is not None and not _failure(reference):
                against_first = changed(version, reference.logits, answer.logits, labels)
                moved = _moved(reference.ops or {}, answer.ops or {})
        found = (failed, against_keras, against_first, moved)
        cells.append(Cell(artefact, rung, version, answer, *found))
    return cells


def _failure(answer: Answer) -> str | None:
    if answer.logits is None:
        return f"refused: {answer.refused}"
    return None if np.isfinite(answer.logits).all() else "its logits are not finite"


def _moved(before: Mapping[str, int], now: Mapping[str, int]) -> dict[str, tuple[int, int]]:
    counts = {op: (before.get(op, 0), now.get(op, 0)) for op in sorted({*before, *now})}
    return {op: pair for op, pair in counts.items() if pair[0] != pair[1]}


def drifts(cells: Sequence[Cell], *, strict: bool) -> list[str]:
    """List what fails. The list is empty if the versions can't be told apart.

    Each pair of versions is one of several tests, so p is multiplied by their number (Bonferroni).

    Args:
        cells: of all rungs, artifacts and versions.
        strict: labels and executed ops count too.
    """
    tests = sum(cell.against_first is not None for cell in cells)
    return [
        f"{cell.artefact}, {cell.rung}, onnxruntime {cell.version}: {reason}"
        for cell in cells
        for reason in _reasons(cell, tests, strict)
    ]


def _reasons(cell: Cell, tests: int, strict: bool) -> Iterator[str]:
    if cell.failed is not None:
        yield cell.failed
    if cell.against_first is None:
        return
    tested, flips, _ = _figures(cell.against_first)
    corrected = min(1.0, tested.p_value * tests)
    if corrected < 1 - LEVEL:
        yield (
            f"top-1 {tested.change_points:+.2f} points ({tested.lost} images lost, {tested.won} "
            f"won), which is not chance (p {tested.p_value:.2g}, {corrected:.2g} of {tests} tests)"
        )
    if strict and flips:
        yield f"{flips} images get another label"
    if strict and cell.ops_changed:
        yield f"executes other ops: {_ops_text(cell.ops_changed)}"


def _figures(change: Change) -> tuple[Paired, int, float]:
    """Return the test of top-1, the number of flipped labels and the largest error of a logit."""
    tested, agreement = change.accuracy.paired, change.accuracy.against_keras
    assert tested is not None
    assert agreement is not None
    return tested, agreement.label_flips, agreement.max_abs_error


def _ops_text(moved: Mapping[str, tuple[int, int]]) -> str:
    farthest = sorted(moved.items(), key=lambda item: -abs(item[1][1] - item[1][0]))
    said = [f"{op} {before} -> {now}" for op, (before, now) in farthest[:_OPS_SHOWN]]
    return ", ".join([*said, *(["..."] if len(moved) > _OPS_SHOWN else [])])


COLUMNS = ("onnxruntime", "top-1", "flips", "change", "p", "max error", "dB", "executed ops")


def show(cells: Sequence[Cell]) -> None:
    """Print a table for each artifact and rung, with a line for each version."""
    for (artefact, rung), found in _by_rung(cells).items():
        rows = [[cell.version, *_row(cell)] for cell in found]
        console.table(f"{artefact}, {rung}: each version against the first", COLUMNS, rows)
    console.say("flips, max error (of a logit), dB (SQNR): against the first")


def _by_rung(cells: Sequence[Cell]) -> dict[tuple[str, str], list[Cell]]:
    found: dict[tuple[str, str], list[Cell]] = {}
    for cell in cells:
        found.setdefault((cell.artefact, cell.rung), []).append(cell)
    return found


def _row(cell: Cell) -> list[str]:
    if cell.against_keras is None:
        return ["failed", *["-"] * 6]
    top1, change = f"{cell.against_keras.accuracy.top1:.4f}", cell.against_first
    if change is None:
        return [top1, *["-"] * 5, str(sum((cell.answer.ops or {}).values()))]
    tested, flips, error = _figures(change)
    return [
        top1,
        str(flips),
        f"{tested.change_points:+.2f}",
        f"{tested.p_value:.2g}",
        f"{error:.1e}",
        "exact" if change.noise == 0 else f"{change.sqnr_db:.1f}",
        _ops_text(cell.ops_changed or {}) or "same",
    ]


def report(cells: Sequence[Cell]) -> dict[str, Any]:
    """Return all figures as JSON values, by artifact and rung."""
    return {
        "environments": {cell.version: cell.answer.versions for cell in cells},
        "results": [
            {"artefact": artefact, "rung": rung, "versions": [cell.as_json() for cell in found]}
            for (artefact, rung), found in _by_rung(cells).items()
        ],
    }
