"""Compare an artifact with its baseline, figure by figure: where and how far they differ.

These are pure functions over facts. Accuracy and agreement with Keras get a paired test on the
same images. A change counts as chance if its 95% interval contains zero.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.accuracy.paired import paired
from benchmarks.drift.sketch import relative_change
from benchmarks.gate.facts import Facts, Run
from exporter.network.agreement import TOLERANCE as ROUNDING

_QDQ = ("QuantizeLinear", "DequantizeLinear")
_NO_CONSTANTS = ("op", "layer")
_IMAGES_SHOWN = 5


@dataclass(frozen=True)
class Part:
    """One place that differs: the distance in the figure's unit, and the difference in words."""

    distance: float
    text: str


@dataclass(frozen=True)
class Difference:
    """A figure then and now; ``chance`` if a paired test can't tell the two apart."""

    before: str
    now: str
    parts: tuple[Part, ...] = ()
    chance: bool = False


def source(before: Facts, now: Facts) -> Difference:
    """Whether the Keras original is the same file."""
    same = before.source == now.source
    parts = () if same else (Part(1, "the Keras original has changed"),)
    return Difference(before.source[:12], now.source[:12], parts)


def setting(before: Facts, now: Facts) -> Difference:
    """Settings that differ, one part per setting."""
    names = dict.fromkeys([*before.setting, *now.setting])
    parts = tuple(
        Part(1, f"{name}: {before.setting.get(name, 'none')} -> {now.setting.get(name, 'none')}")
        for name in names
        if before.setting.get(name) != now.setting.get(name)
    )
    return Difference(f"{len(before.setting)} settings", f"{len(now.setting)}", parts)


def folds(before: Facts, now: Facts) -> Difference:
    """Count of folded batch norms, and the newly unfolded ones with the reason."""
    lost = abs(before.folded - now.folded)
    parts = [Part(lost, f"{before.folded} -> {now.folded} batch norms folded")] if lost else []
    parts += [
        Part(1, f"{node} is not folded: {reason}")
        for node, reason in now.unfolded.items()
        if node not in before.unfolded
    ]
    return Difference(f"{before.folded} folded", f"{now.folded}", tuple(parts))


def ops(before: Facts, now: Facts) -> Difference:
    """Counts of all ops except Q and DQ."""
    return _counts(_without_qdq(before.ops), _without_qdq(now.ops))


def _without_qdq(ops: dict[str, int]) -> dict[str, int]:
    return {op: count for op, count in ops.items() if op not in _QDQ}


def qdq(before: Facts, now: Facts) -> Difference:
    """Counts of Q and DQ, and the tensors that gained or lost a pair."""
    found = _counts(*({op: facts.ops.get(op, 0) for op in _QDQ} for facts in (before, now)))
    moved = [
        Part(1, f"{name} is quantized only {where}")
        for one, other, where in ((before, now, "in the baseline"), (now, before, "now"))
        for name in one.ranges
        if name not in other.ranges
    ]
    return Difference(found.before, found.now, (*found.parts, *moved))


def _counts(before: Mapping[str, int], now: Mapping[str, int]) -> Difference:
    parts = tuple(
        Part(
            abs(now.get(name, 0) - before.get(name, 0)),
            f"{name} {before.get(name, 0)} -> {now.get(name, 0)}",
        )
        for name in dict.fromkeys([*before, *now])
        if before.get(name, 0) != now.get(name, 0)
    )
    return Difference(str(sum(before.values())), str(sum(now.values())), parts)


def layers(before: Facts, now: Facts) -> Difference:
    """How far each layer's constants moved, as a share of their norm."""
    return Difference(
        f"{len(before.layers)} layers", f"{len(now.layers)}", tuple(_parts(before, now))
    )


def _parts(before: Facts, now: Facts) -> Iterator[Part]:
    """Yield how far each layer's constants moved, and the layers that only one side has."""
    for name in dict.fromkeys([*before.layers, *now.layers]):
        one, other = before.layers.get(name), now.layers.get(name)
        known = one or other or {}
        called = f"{name} (Keras layer {known['layer']!r})" if known.get("layer") else name
        if one is None or other is None:
            yield Part(math.inf, f"{called}: only {'now' if one is None else 'in the baseline'}")
            continue
        for constant in dict.fromkeys([*one, *other]):
            if constant in _NO_CONSTANTS or one.get(constant) == other.get(constant):
                continue
            if constant not in one or constant not in other:
                where = "now" if constant not in one else "in the baseline"
                yield Part(math.inf, f"{called}: has a {constant} only {where}")
                continue
            change = relative_change(one[constant], other[constant])
            yield Part(change, f"{called}: {constant} moved by {change:.2%} of its norm")


def ranges(before: Facts, now: Facts) -> Difference:
    """How far either end of each quantized range moved, as a share of the farther one."""
    parts = []
    for name, (low, high) in before.ranges.items():
        if name not in now.ranges or now.ranges[name] == (low, high):
            continue  # qdq() reports a range that is gone
        new_low, new_high = now.ranges[name]
        largest = max(abs(low), abs(high))
        moved = max(abs(new_low - low), abs(new_high - high)) / largest if largest else math.inf
        text = f"{name}: {low:.4g} to {high:.4g} -> {new_low:.4g} to {new_high:.4g} ({moved:.1%})"
        parts.append(Part(moved, text))
    return Difference(f"{len(before.ranges)} ranges", f"{len(now.ranges)}", tuple(parts))


def warnings(before: Facts, now: Facts) -> Difference:
    """Warnings that are new."""
    parts = tuple(Part(1, text) for text in now.warnings if text not in before.warnings)
    return Difference(str(len(before.warnings)), str(len(now.warnings)), parts)


def fusion(before: Facts, now: Facts) -> Difference | None:
    """Counts of what the runtime executes; None if not known."""
    if before.fused is None or now.fused is None:
        return None
    return _counts(before.fused, now.fused)


def size(before: Facts, now: Facts) -> Difference:
    """Change of size of the files that both have, each as a share."""
    parts, both = [], [name for name in before.files if name in now.files]
    for name in both:
        one, other = before.files[name], now.files[name]
        if one != other:
            change = abs(other - one) / one if one else math.inf
            parts.append(Part(change, f"{name}: {one:,} -> {other:,} bytes ({change:.1%})"))
    old, new = (sum(facts.files[name] for name in both) / 1e6 for facts in (before, now))
    return Difference(f"{old:.2f} MB", f"{new:.2f} MB", tuple(parts))


def _runs(before: Facts, now: Facts) -> tuple[Run, Run] | None:
    """Return the same kind of run on the same images, then and now."""
    for kind, run in now.runs.items():
        old = before.runs.get(kind)
        if old is not None and old.data_sha256 == run.data_sha256:
            return old, run
    return None


def accuracy(before: Facts, now: Facts) -> Difference | None:
    """Points of top-1 lost, tested in pairs; None where not run alike."""
    runs = _runs(before, now)
    if runs is None or runs[1].truth is None:
        return None
    truth = runs[1].truth
    return _in_pairs(runs[0].predicted == truth, runs[1].predicted == truth, "top-1")


def agreement(before: Facts, now: Facts) -> Difference | None:
    """Points of agreement with Keras lost, tested in pairs."""
    runs = _runs(before, now)
    if runs is None:
        return None
    old, new = (run.predicted == run.keras for run in runs)
    found = _in_pairs(old, new, "agreement with Keras")
    return Difference(f"{(~old).sum()} flips", f"{(~new).sum()} flips", found.parts, found.chance)


def _in_pairs(before: Any, now: Any, what: str) -> Difference:
    tested = paired(before, now)
    low, high = tested.interval_points
    text = (
        f"{what} {tested.change_points:+.2f} points, 95% {low:+.2f} to {high:+.2f}, "
        f"p = {tested.p_value:.2g} ({tested.lost} images lost, {tested.won} won of {tested.images})"
    )
    parts = (Part(-tested.change_points, text),) if tested.lost or tested.won else ()
    return Difference(f"{before.mean():.4f}", f"{now.mean():.4f}", parts, chance=low <= 0 <= high)


def labels(before: Facts, now: Facts) -> Difference | None:
    """Percent of the images that get a different label."""
    runs = _runs(before, now)
    if runs is None:
        return None
    other = np.flatnonzero(runs[0].predicted != runs[1].predicted)
    share = 100 * len(other) / len(runs[0].predicted)
    first = ", ".join(map(str, other[:_IMAGES_SHOWN]))
    text = f"{len(other)} images get a different label ({share:.2f}%), first: {first}"
    parts = (Part(share, text),) if len(other) else ()
    return Difference(f"{len(runs[0].predicted)} images", f"{len(other)} changed", parts)


def logit_error(before: Facts, now: Facts) -> Difference | None:
    """Growth of the logits' error against Keras, as a share."""
    runs = _runs(before, now)
    if runs is None:
        return None
    parts = []
    for name in ("max_relative_error", "mean_abs_error"):
        one, other = (float(getattr(run, name)) for run in runs)
        if one == other or (max(one, other) <= ROUNDING and math.isfinite(other)):
            continue  # only float32 rounding, which differs between CPUs
        change = other / one - 1 if one else math.inf
        parts.append(Part(change, f"{name} {one:.3g} -> {other:.3g}"))
    old, new = (f"{run.max_relative_error:.2g} of the largest" for run in runs)
    return Difference(old, new, tuple(parts))


def latency(before: Facts, now: Facts) -> Difference | None:
    """Growth of the ratio to the original's latency, as a share."""
    one, other = before.latency_ratio, now.latency_ratio
    if one is None or other is None:
        return None
    text = f"{one:.3f} -> {other:.3f} of the original's latency"
    parts = (Part(other / one - 1, text),) if one != other else ()
    return Difference(f"{one:.3f}", f"{other:.3f}", parts)
