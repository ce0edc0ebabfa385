"""Decide from the passport alone whether an engine loads on a machine.

Deserializing an engine runs code from it, and a wrong engine fails late, with only a log line. So
we check first. Each rule answers "holds", "fails" or "unknown", or None if it does not apply.
One "fails" decides, and "unknown" never counts as a yes.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from exporter.engines.machines import Machine
from exporter.engines.record import EngineRecord
from exporter.engines.rules import RULES, Outcome
from exporter.errors import GateRefused, Missing
from exporter.machine.capabilities import has_precision, needed_for

Verdict = Literal["loads", "does not load", "unknown"]


@dataclass(frozen=True)
class Finding:
    """The answer of one rule."""

    rule: str
    outcome: Outcome
    detail: str
    quote: str
    source: str
    verified: bool


@dataclass(frozen=True)
class Fit:
    """The answers of all rules for one engine and one machine."""

    machine: Machine
    engine: EngineRecord
    findings: tuple[Finding, ...]

    @property
    def verdict(self) -> Verdict:
        """One failed rule decides; if none failed, one unknown rule does."""
        outcomes = {finding.outcome for finding in self.findings}
        if "fails" in outcomes:
            return "does not load"
        return "unknown" if "unknown" in outcomes else "loads"

    def require_loads(self) -> None:
        """Raise an error unless the engine is known to load.

        Raises:
            GateRefused: a rule says that it does not load.
            Missing: no rule fails, but the answer of one is unknown. A script that ships engines
                must not take that for a yes.
        """
        if self.verdict == "loads":
            return
        decisive = "fails" if self.verdict == "does not load" else "unknown"
        reasons = "\n".join(
            f"{finding.rule}: {finding.detail}"
            for finding in self.findings
            if finding.outcome == decisive
        )
        if self.verdict == "unknown":
            raise Missing(
                f"can't tell whether the engine loads on {self.machine.name}", hint=reasons
            )
        raise GateRefused(f"the engine does not load on {self.machine.name}", hint=reasons)

    def as_json(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return {
            "verdict": self.verdict,
            "machine": asdict(self.machine),
            "engine": self.engine.as_json(),
            "rules": [asdict(finding) for finding in self.findings],
        }


def require_precision(precision: str, machine: Machine) -> None:
    """Refuse a machine if its GPU lacks a precision, as no such engine can be built there.

    Raises:
        GateRefused: the GPU lacks the precision.
    """
    here = machine.compute_capability
    if here is not None and not has_precision(here, precision):
        raise GateRefused(
            f"the engine can't be compiled for {machine.name}: {machine.gpu} (compute capability "
            f"{here}) has no {precision.upper()}",
            hint=needed_for(precision),
        )


def judge(engine: EngineRecord, precision: str, machine: Machine) -> Fit:
    """Apply every rule.

    Args:
        engine: the engine's record from the passport.
        precision: the artifact's precision: "fp32", "fp16", "int8" or "fp8".
        machine: a row of `machines`, or this machine.
    """
    findings = tuple(
        Finding(rule.name, *answer, rule.quote, rule.source, rule.verified)
        for rule in RULES
        if (answer := rule.check(engine, precision, machine)) is not None
    )
    return Fit(machine, engine, findings)
