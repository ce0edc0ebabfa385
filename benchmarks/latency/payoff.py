"""Report whether lower precision pays off: speed gained and accuracy lost, in sentences."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from benchmarks.latency.peers import PEERS
from benchmarks.latency.result import Row, Scenario, speedup
from exporter.artifact.folder import Artifact


def verdicts(
    artifacts: Sequence[Artifact], rows: Sequence[Row], scenario: Scenario
) -> tuple[str, ...]:
    """Compare the artifacts of lower precision with the FP32 one of their target.

    Args:
        artifacts: artifacts of one network. A target without an FP32 artifact gets no sentence.
        rows: rows named after the artifacts.
        scenario: decides which metric is compared.

    Returns:
        A sentence for each such FP32 artifact and batch size.
    """
    timed = {(row.engine, row.batch): row for row in rows if row.blocks}
    found = []
    for full in artifacts:
        lower = [
            low
            for low in artifacts
            if low.target == full.target and low.passport["precision"] != "fp32"
        ]
        for (name, batch), slow in timed.items():
            if name != str(full.path) or full.passport["precision"] != "fp32":
                continue
            parts = [
                verdict(full, low, slow, timed[str(low.path), batch], scenario)
                for low in lower
                if (str(low.path), batch) in timed
            ]
            if parts:
                found.append(f"{full.target}, batch {batch}, beside FP32: {'; '.join(parts)}")
    return tuple(found)


def verdict(full: Artifact, low: Artifact, slow: Row, fast: Row, scenario: Scenario) -> str:
    """Return gain and cost of a lower precision, such as ``INT8 is 3.9x [3.8, 4.0] as fast``."""
    ratio = speedup(fast, slow, scenario)
    gain = f"is {ratio} as fast"
    if ratio.low <= 1 <= ratio.high:
        gain = f"gains nothing here ({ratio})"
    elif ratio.high < 1:
        gain = f"is slower ({ratio})"
    return f"{low.passport['precision'].upper()} {gain} {accuracy_price(full, low)}"


def accuracy_price(full: Artifact, low: Artifact) -> str:
    """Return the loss of accuracy in points of top-1, from the passports, as text."""
    before, after = top1(full), top1(low)
    if before is None or after is None:
        unknown = full if before is None else low
        return f"(accuracy not measured here: exporter evaluate {unknown.path})"
    if (before["data"], before["images"]) != (after["data"], after["images"]):
        return "(accuracies were measured on different images)"
    points = 100 * (after["top1"] - before["top1"])
    return f"for {-points:.2f} points" if points <= 0 else f"with {points:.2f} points won"


def top1(one: Artifact) -> dict[str, Any] | None:
    """Return the accuracy that ``exporter evaluate`` recorded, or None."""
    recorded: dict[str, Any] | None = one.passport.get("measured", {}).get("accuracy")
    return recorded


def beside_peers(
    artifacts: Sequence[Artifact], rows: Sequence[Row], scenario: Scenario
) -> tuple[str, ...]:
    """Compare each INT8 artifact with other tools' INT8 for the same engine.

    Args:
        artifacts: artifacts of one network.
        rows: rows named after the artifacts and the peers.
        scenario: decides which metric is compared.

    Returns:
        A sentence for each pair and batch size.
    """
    timed = {(row.engine, row.batch): row for row in rows if row.blocks}
    found = []
    for one in artifacts:
        if one.passport["precision"] != "int8":
            continue
        for (name, batch), theirs in timed.items():
            peer, ours = PEERS.get(name), timed.get((str(one.path), batch))
            if peer is not None and peer.target == one.target and ours is not None:
                ratio = speedup(ours, theirs, scenario)
                found.append(
                    f"{one.target}, batch {batch}: INT8 is {ratio} as fast as {peer.title}"
                )
    return tuple(found)
