"""Does lower precision pay: speed gained and accuracy lost, of one target, in one sentence each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from benchmarks.latency_result import Row, Scenario, speedup
from exporter.artifact import Artifact


def verdicts(
    artifacts: Sequence[Artifact], rows: Sequence[Row], scenario: Scenario
) -> tuple[str, ...]:
    """Compare each artefact of lower precision with the FP32 one of its target.

    Args:
        artifacts: of one network; without an FP32 one of a target, there is nothing to say of it.
        rows: named after them.
        scenario: what is compared.

    Returns:
        A sentence for each of them and batch size.
    """
    found = []
    for full in artifacts:
        if full.passport["precision"] != "fp32":
            continue
        for low in artifacts:
            if low.target == full.target and low.passport["precision"] != "fp32":
                found += [
                    verdict(full, low, slow, fast, scenario)
                    for slow in rows
                    for fast in rows
                    if (slow.engine, fast.engine) == (str(full.path), str(low.path))
                    and slow.batch == fast.batch
                    and slow.blocks
                    and fast.blocks
                ]
    return tuple(found)


def verdict(full: Artifact, low: Artifact, slow: Row, fast: Row, scenario: Scenario) -> str:
    """Say in one sentence what a lower precision gains and costs."""
    ratio = speedup(fast, slow, scenario)
    name = low.passport["precision"].upper()
    price = accuracy_price(full, low)
    gain = f"is {ratio} as fast as FP32"
    if ratio.low <= 1 <= ratio.high:
        gain = f"gains nothing that can be told from none ({ratio})"
    elif ratio.high < 1:
        gain = f"is slower than FP32 ({ratio})"
    return f"{full.target}, batch {fast.batch}: {name} {gain}, {price}"


def accuracy_price(full: Artifact, low: Artifact) -> str:
    """Say what the passports know of the accuracy lost, in points of top-1."""
    before, after = top1(full), top1(low)
    if before is None or after is None:
        unknown = full if before is None else low
        return f"for an accuracy nobody measured (exporter evaluate {unknown.path})"
    if (before["data"], before["images"]) != (after["data"], after["images"]):
        return "with accuracies measured on different images"
    points = 100 * (after["top1"] - before["top1"])
    return f"for {-points:.2f} points" if points <= 0 else f"with {points:.2f} points won"


def top1(one: Artifact) -> dict[str, Any] | None:
    """Return the accuracy that ``exporter evaluate`` recorded, None where it did not."""
    recorded: dict[str, Any] | None = one.passport.get("measured", {}).get("accuracy")
    return recorded
