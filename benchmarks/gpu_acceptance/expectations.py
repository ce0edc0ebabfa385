"""What engines must meet on a GPU, as rows of a table, and the verdict for each.

A verdict is "met" or "not met" only if the figure that decides was measured on all test images and
on a quiet machine. Everything else is "not judged", with the reason.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from benchmarks.accuracy.paired import Paired
from benchmarks.latency.result import Ratio
from exporter.engines.audit import Audit
from exporter.network.agreement import Agreement

Verdict = Literal["met", "not met", "not judged"]


@dataclass(frozen=True)
class Figures:
    """What was found out about one engine. None or empty means that it was not found out.

    Attributes:
        model: its name.
        precision: of the engine.
        images: how many were classified.
        test_images: how many there are.
        graph_convolutions: in the graph that the engine was built from.
        failed: why there is no engine, or why it did not run.
        paired: its top-1 tested against Keras', image by image.
        simulation: agreement with the graph's simulation on a CPU.
        audit: of its layers.
        no_audit: why there is none.
        speedup: over the FP16 engine, by batch size.
        no_speedup: why there is none, by batch size.
        unstable: why its latencies can't be trusted.
    """

    model: str
    precision: str
    images: int
    test_images: int
    graph_convolutions: int = 0
    failed: str | None = None
    paired: Paired | None = None
    simulation: Agreement | None = None
    audit: Audit | None = None
    no_audit: str = "there is no record of the engine's layers"
    speedup: Mapping[int, Ratio] = field(default_factory=dict)
    no_speedup: Mapping[int, str] = field(default_factory=dict)
    unstable: tuple[str, ...] = ()


@dataclass(frozen=True)
class Look:
    """One look at the figures. If they don't decide, ``met`` is None and ``why`` says why."""

    found: str
    met: bool | None
    why: str = ""
    at: str = ""

    @property
    def verdict(self) -> Verdict:
        """The verdict in words."""
        return "not judged" if self.met is None else "met" if self.met else "not met"


@dataclass(frozen=True)
class Expectation:
    """One row.

    Attributes:
        name: in a word or two.
        says: in a sentence.
        precisions: of the engines that it applies to.
        limit: for the figure.
        look: judges an engine's figures by the limit.
    """

    name: str
    says: str
    precisions: tuple[str, ...]
    limit: float
    look: Callable[[Figures, float], Iterable[Look]]


@dataclass(frozen=True)
class Judged:
    """The verdict for one expectation of one engine."""

    model: str
    precision: str
    expectation: str
    says: str
    found: str
    verdict: Verdict
    why: str

    def as_json(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return asdict(self)


def _runs(figures: Figures, _: float) -> Iterable[Look]:
    if figures.failed is None:
        yield Look("yes", True)
    else:
        yield Look("no", False, figures.failed)


def _top1(figures: Figures, limit: float) -> Iterable[Look]:
    if figures.paired is None:
        yield Look("-", None, "it did not run")
        return
    change = figures.paired.change_points
    low, high = figures.paired.interval_points
    found = f"{change:+.2f} points ({low:+.2f} to {high:+.2f})"
    yield _on_all_images(figures, Look(found, round(-change, 6) <= limit))


def _agreement(figures: Figures, limit: float) -> Iterable[Look]:
    if figures.simulation is None:
        yield Look("-", None, "it did not run")
        return
    same = figures.simulation.images - figures.simulation.label_flips
    percent = 100 * same / figures.simulation.images
    found = f"{percent:.2f}% ({figures.simulation.label_flips} flips)"
    if not math.isfinite(figures.simulation.max_abs_error):
        yield Look(found, False, "its logits are not finite")
        return
    yield _on_all_images(figures, Look(found, percent >= limit))


def _on_all_images(figures: Figures, look: Look) -> Look:
    if figures.images == figures.test_images:
        return look
    why = f"on {figures.images:,} of {figures.test_images:,} test images"
    return Look(look.found, None, why)


def _fusion(figures: Figures, _: float) -> Iterable[Look]:
    audit = figures.audit
    if audit is None:
        yield Look("-", None, figures.no_audit)
        return
    found = ", ".join(f"{count} {name}" for name, count in audit.precisions().items()) or "none"
    hidden = figures.graph_convolutions - len(audit.convolutions)
    objections = audit.objections() if audit.convolutions else []
    if objections and len(audit.untold()) == len(objections):
        yield Look(found, None, "; ".join(objections[:3]))
    elif objections:
        yield Look(found, False, "; ".join(objections[:3]))
    elif not audit.convolutions or (audit.opaque and hidden > 0):
        why = f"{hidden} of {figures.graph_convolutions} convolutions are not in the record"
        regions = f", {len(audit.opaque)} compiled regions are" if audit.opaque else ""
        yield Look(found, None, why + regions)
    else:
        yield Look(found, True)


def _speed(figures: Figures, limit: float) -> Iterable[Look]:
    for batch, why in figures.no_speedup.items():
        yield Look("-", None, why, f"batch {batch}")
    for batch, ratio in figures.speedup.items():
        at = f"batch {batch}"
        if figures.unstable:
            yield Look(str(ratio), None, f"unstable: {figures.unstable[0]}", at)
        elif ratio.low < limit <= ratio.high:
            yield Look(str(ratio), None, "the interval contains 1: measure with more --rounds", at)
        else:
            yield Look(str(ratio), ratio.low >= limit, "", at)
    if not figures.speedup and not figures.no_speedup:
        yield Look("-", None, "no latency was measured")


_BOTH = ("fp16", "int8")
EXPECTATIONS: tuple[Expectation, ...] = (
    Expectation("runs", "TensorRT builds the engine, and it classifies", _BOTH, 0, _runs),
    Expectation("top-1", "at most 0.1 points below Keras, all test images", _BOTH, 0.1, _top1),
    Expectation(
        "agreement", "the simulation's label on 99% of the images", _BOTH, 99.0, _agreement
    ),
    Expectation(
        "fusion",
        "all convolutions in INT8, no add out of it for want of Q/DQ",
        ("int8",),
        0,
        _fusion,
    ),
    Expectation("speed", "no slower than FP16: 95% interval from 1.00x up", ("int8",), 1.0, _speed),
)


def judge(engines: Sequence[Figures]) -> list[Judged]:
    """Judge each engine by each expectation for its precision."""
    return [
        Judged(
            figures.model,
            figures.precision,
            f"{row.name}, {look.at}" if look.at else row.name,
            row.says,
            look.found,
            look.verdict,
            look.why,
        )
        for figures in engines
        for row in EXPECTATIONS
        if figures.precision in row.precisions
        for look in row.look(figures, row.limit)
    ]


def exit_code(verdicts: Iterable[str]) -> int:
    """Return 0 if all are met, 3 if one is not met, 4 if one could not be judged."""
    found = set(verdicts)
    return 3 if "not met" in found else 4 if "not judged" in found else 0
