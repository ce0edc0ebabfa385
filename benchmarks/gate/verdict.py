"""Decide for every figure whether an artifact drifted from its baseline.

Each figure has one tolerance, stored in the baseline with its reason. A change that a paired test
attributes to chance passes as "within chance", whatever the tolerance is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from benchmarks.gate.differences import Difference
from benchmarks.gate.facts import Facts
from benchmarks.gate.figures import FIGURES, Figure, Tolerance

Verdict = Literal["same", "within tolerance", "within chance", "better", "drifted", "not compared"]
_MOST_PARTS = 5


@dataclass(frozen=True)
class Finding:
    """The verdict on one figure.

    Attributes:
        figure: the figure's name in :data:`FIGURES`.
        rung: the step of the export at which it is measured.
        verdict: "drifted" fails the gate.
        before: the value in the baseline.
        now: the artifact's value.
        detail: where they differ, the farthest first.
        why: the reason for the tolerance.
    """

    figure: str
    rung: str
    verdict: Verdict
    before: str
    now: str
    detail: str
    why: str

    def as_json(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return asdict(self)


def judge(before: Facts, now: Facts, tolerances: Mapping[str, Tolerance]) -> list[Finding]:
    """Compare all figures, in the order of :data:`FIGURES`.

    Args:
        before: the baseline's facts, with the same key.
        now: the artifact's facts.
        tolerances: one for every figure.
    """
    return [
        _finding(name, figure, figure.compare(before, now), tolerances[name])
        for name, figure in FIGURES.items()
    ]


def drifted(findings: list[Finding]) -> list[Finding]:
    """Keep the findings that fail the gate."""
    return [finding for finding in findings if finding.verdict == "drifted"]


def _finding(name: str, figure: Figure, found: Difference | None, tolerance: Tolerance) -> Finding:
    if found is None:
        return Finding(name, figure.rung, "not compared", "-", "-", "", tolerance.why)
    parts = sorted(found.parts, key=lambda part: -part.distance)
    farthest = max((part.distance for part in parts), default=0.0)
    over = [part for part in parts if not part.distance <= tolerance.within]  # NaN is over
    verdict: Verdict
    if not parts:
        verdict = "same"
    elif found.chance:
        verdict = "within chance"
    elif over:
        verdict = "drifted"
    else:
        verdict = "better" if farthest < 0 else "within tolerance"
    shown = [part.text for part in (over if verdict == "drifted" else parts)]
    more = [f"and {len(shown) - _MOST_PARTS} more"] if len(shown) > _MOST_PARTS else []
    detail = "; ".join(shown[:_MOST_PARTS] + more)
    return Finding(name, figure.rung, verdict, found.before, found.now, detail, tolerance.why)
