"""Decide whether a latency measurement can be trusted, and give the reasons if not.

:data:`LIMITS` has the limits. The measured values come from
:mod:`benchmarks.latency.machine_watch` and from the blocks themselves.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from benchmarks.latency.result import Block, Row, Scenario


@dataclass(frozen=True)
class Limits:
    """The most disturbance that a trusted result may have.

    Attributes:
        others: share of the pinned cores that other processes may take during a block.
        stolen: share that the hypervisor may take.
        clock: how far the clock may fall below the median of all blocks.
        spread: interquartile range of an engine's block costs, divided by their median.
        drift: change over the whole run, from the baseline's Theil-Sen slope.
        p_value: Kendall's test calls that slope a trend if its p-value is below this.
        before: share of the pinned cores that was busy before the start.
        gpu_before: share of the time that the GPU was busy before the start.
    """

    others: float = 0.05
    stolen: float = 0.02
    clock: float = 0.05
    spread: float = 0.10
    drift: float = 0.03
    p_value: float = 0.05
    before: float = 0.10
    gpu_before: float = 0.05


LIMITS = Limits()


def reasons(
    rows: Sequence[Row],
    baseline: str,
    scenario: Scenario,
    busy_before: float | None,
    gpu_busy_before: float | None = None,
) -> tuple[str, ...]:
    """Return the reasons why a measurement can't be trusted.

    Args:
        rows: rows of all engines and batch sizes.
        baseline: the engine that is checked for drift.
        scenario: defines the cost of a block.
        busy_before: share of the pinned cores that was busy before the start. The load average
            would count an earlier measurement too. None if the machine does not report it.
        gpu_busy_before: share of the time that the GPU was busy before the start; None if nothing
            is timed on a GPU or the share is unknown.
    """
    measured = [row for row in rows if row.blocks]
    found = [*_before(busy_before)]
    if gpu_busy_before is not None and gpu_busy_before > LIMITS.gpu_before:
        found.append(f"the GPU was busy before the start: {gpu_busy_before:.0%} of the time")
    found += _beside([block for row in measured for block in row.blocks])
    for row in measured:
        found += _scattered(row, scenario)
        if row.engine == baseline:
            found += _drifting(row, scenario)
    return tuple(found)


def _before(busy: float | None) -> Iterable[str]:
    if busy is not None and busy > LIMITS.before:
        yield f"the machine was busy before the start: {busy:.0%} of the cores' time"


def _beside(blocks: Sequence[Block]) -> Iterable[str]:
    """Check what else the machine did during the blocks, over all of them."""
    yield from _worst(blocks, "other processes took", lambda b: b.load.others, LIMITS.others)
    yield from _worst(blocks, "the hypervisor took", lambda b: b.load.stolen, LIMITS.stolen)
    held = [b.load.throttled_s for b in blocks if b.load.throttled_s]
    if held:
        yield f"a CPU quota held back {len(held)} of {len(blocks)} blocks, {sum(held):.2f} s in all"
    hot = sum(b.load.throttle_events or 0 for b in blocks)
    if hot:
        yield f"cores slowed down for heat {hot} times"
    yield from _gpus(blocks)
    clocks = [b.load.mhz for b in blocks if b.load.mhz is not None]
    if clocks and min(clocks) < (usual := statistics.median(clocks)) * (1 - LIMITS.clock):
        yield f"the clock fell to {min(clocks):.0f} MHz from its usual {usual:.0f} MHz"


def _gpus(blocks: Sequence[Block]) -> Iterable[str]:
    held_gpus = [b for b in blocks if any(gpu["held_back_by"] for gpu in b.load.gpus)]
    if held_gpus:
        by = {reason for b in held_gpus for gpu in b.load.gpus for reason in gpu["held_back_by"]}
        share = f"{len(held_gpus)} of {len(blocks)} blocks"
        yield f"a GPU was slowed down in {share}: {', '.join(sorted(by))}"
    used = [gpu for b in blocks if b.device_ms for gpu in b.load.gpus if gpu["sm_mhz"]]
    for index in sorted({gpu["index"] for gpu in used}):
        clocks = [gpu["sm_mhz"] for gpu in used if gpu["index"] == index]
        if min(clocks) < (usual := statistics.median(clocks)) * (1 - LIMITS.clock):
            lowest = min(clocks)
            yield f"GPU {index}'s clock fell to {lowest:.0f} MHz from its usual {usual:.0f} MHz"


def _worst(
    blocks: Sequence[Block], who: str, share: Callable[[Block], float | None], limit: float
) -> Iterable[str]:
    shares = [found for block in blocks if (found := share(block)) is not None]
    over = [found for found in shares if found > limit]
    if over:
        yield (
            f"{who} up to {max(over):.0%} of the cores' time, "
            f"over {limit:.0%} in {len(over)} of {len(blocks)} blocks"
        )


def _scattered(row: Row, scenario: Scenario) -> Iterable[str]:
    where = f"{row.engine}, batch {row.batch}"
    cold = sum(not block.warm for block in row.blocks)
    if cold:
        yield f"{where}: {cold} of {len(row.blocks)} blocks never warmed up"
    costs = row.costs(scenario)
    if len(costs) < 2:
        return
    first, middle, third = statistics.quantiles(costs, n=4, method="inclusive")
    if (spread := (third - first) / middle) > LIMITS.spread:
        yield f"{where}: rounds differ by {spread:.0%} (interquartile range by median)"


def _drifting(row: Row, scenario: Scenario) -> Iterable[str]:
    costs = row.costs(scenario)
    change, p_value = drift(costs), trend_p_value(costs)
    if abs(change) > LIMITS.drift and p_value < LIMITS.p_value:
        yield (
            f"{row.engine}, batch {row.batch}: drifted by {change:+.0%} over the rounds "
            f"(Kendall's p {p_value:.3f})"
        )


def drift(costs: Sequence[float]) -> float:
    """Return the relative change from first to last value, by the median of all slopes.

    This is the Theil-Sen slope (Sen 1968, Journal of the American Statistical Association 63,
    1379-1389). A single slow round hardly changes it.
    """
    if len(costs) < 2:
        return 0.0
    pairs = itertools.combinations(enumerate(costs), 2)
    slope = statistics.median((b - a) / (j - i) for (i, a), (j, b) in pairs)
    return slope * (len(costs) - 1) / statistics.median(costs)


def trend_p_value(values: Sequence[float]) -> float:
    """Return the two-sided p-value of Kendall's test of no trend, exact for values without ties.

    Without a trend, every order is equally likely. So we count the permutations that have at most
    as many discordant pairs (Kendall 1938, Biometrika 30, 81-93).
    """
    pairs = list(itertools.combinations(values, 2))
    fewest = min(sum(b < a for a, b in pairs), sum(b > a for a, b in pairs))
    counts = [1]  # permutations by discordant pairs, adding one value at a time
    for places in range(1, len(values) + 1):
        counts = [
            sum(counts[max(0, k - places + 1) : k + 1]) for k in range(len(counts) + places - 1)
        ]
    return min(1.0, 2 * sum(counts[: fewest + 1]) / math.factorial(len(values)))
