"""What a latency measurement found: rows, ratios, whether it can be trusted; as JSON."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np

from benchmarks.latency.bootstrap import ratio_interval, ratio_of_medians
from benchmarks.latency.machine_watch import Load

Scenario = Literal["sweep", "single-stream", "offline"]

# What is compared, by scenario: MLPerf Inference's metrics for the two it defines (its policies,
# "Scenarios": 90th percentile latency; samples per second).
METRICS: dict[Scenario, str] = {
    "sweep": "median latency",
    "single-stream": "90th percentile latency",
    "offline": "samples per second",
}
QUANTILES = (0, 1, 5, 10, 25, 50, 75, 90, 95, 99, 99.9, 100)


@dataclass(frozen=True)
class Block:
    """One engine at one batch size in one round: one process.

    Attributes:
        round: from 0.
        calls: how many were timed; p50_ms, p90_ms, p99_ms and mean_ms are of one call.
        throughput: samples per second over the block's whole time.
        warm: whether the time of a call settled before, in ``warm_up_s``.
        load: what else the machine did.
        peak_rss_mib: of the process, Python and its libraries included.
        energy_mj: millijoules a sample by meter; empty where the machine does not tell.
        device_ms: on a GPU, ``p50``, ``p90``, ``p99`` and ``mean`` of a call by part, as
            :class:`exporter.network.runner.DeviceTimes` has them; empty for a CPU's engine.
    """

    round: int
    calls: int
    mean_ms: float
    p50_ms: float
    p90_ms: float
    p99_ms: float
    throughput: float
    warm: bool
    warm_up_s: float
    load: Load
    peak_rss_mib: float | None
    energy_mj: Mapping[str, float] = field(default_factory=dict)
    device_ms: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    def cost(self, scenario: Scenario, batch: int) -> float:
        """Return what the scenario ranks by, as milliseconds: less is better."""
        if scenario == "offline":
            return 1000 * batch / self.throughput
        return self.p90_ms if scenario == "single-stream" else self.p50_ms


@dataclass(frozen=True)
class Ratio:
    """How many times as fast as another row, with a 95% bootstrap interval over rounds."""

    over: str
    ratio: float
    low: float
    high: float

    def __str__(self) -> str:
        """Return it as in ``3.91x [3.84, 4.02]``."""
        return f"{self.ratio:.2f}x [{self.low:.2f}, {self.high:.2f}]"


@dataclass(frozen=True)
class Row:
    """One engine at one batch size.

    Attributes:
        engine: its name.
        batch: images a call.
        blocks: one a round; empty where it failed.
        quantiles_ms: of all calls of all rounds, by percent.
        speedup: over the baseline; None for the baseline itself, and where either failed.
        settings: of the runtime.
        file_bytes: what is deployed; None for the original.
        error: why there are no blocks.
    """

    engine: str
    batch: int
    blocks: tuple[Block, ...] = ()
    quantiles_ms: Mapping[str, float] = field(default_factory=dict)
    speedup: Ratio | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    file_bytes: int | None = None
    error: str | None = None

    @property
    def mean_ms(self) -> float:
        """Mean of a call, over all calls."""
        return sum(b.mean_ms * b.calls for b in self.blocks) / sum(b.calls for b in self.blocks)

    @property
    def throughput(self) -> float:
        """Samples per second, the median of the rounds."""
        return statistics.median(block.throughput for block in self.blocks)

    @property
    def peak_rss_mib(self) -> float | None:
        """The largest of any round's process."""
        return max((b.peak_rss_mib for b in self.blocks if b.peak_rss_mib), default=None)

    @property
    def energy_mj(self) -> dict[str, float]:
        """Millijoules a sample by meter, medians of the rounds."""
        return {
            meter: statistics.median(b.energy_mj[meter] for b in self.blocks)
            for meter in sorted(set.intersection(*(set(b.energy_mj) for b in self.blocks)))
        }

    def costs(self, scenario: Scenario) -> list[float]:
        """Return what the scenario ranks by, round by round."""
        return [block.cost(scenario, self.batch) for block in self.blocks]

    def as_json(self) -> dict[str, Any]:
        """Return the fields, and what follows from them, as JSON values."""
        found: dict[str, Any] = {**asdict(self), "blocks": [asdict(b) for b in self.blocks]}
        if self.blocks:
            for name in ("mean_ms", "throughput", "peak_rss_mib", "energy_mj"):
                found[name] = getattr(self, name)
        return found


@dataclass(frozen=True)
class Report:
    """A whole measurement.

    Attributes:
        scenario: decides what is compared, see :data:`METRICS`.
        baseline: the row that ratios are to, the compiled Keras original unless it is not there.
        rows: by batch size, then in the order of the engines.
        unstable: reasons not to trust it; none where there is nothing to say.
        verdicts: whether lower precision pays, a sentence each.
        settings: of the measurement: rounds, seconds, threads, cores, seed, data.
        machine: where it ran, and how busy that was at the start.
        versions: of all that takes part.
        date: when it began.
    """

    scenario: Scenario
    baseline: str
    rows: tuple[Row, ...]
    unstable: tuple[str, ...]
    verdicts: tuple[str, ...]
    settings: Mapping[str, Any]
    machine: Mapping[str, Any]
    versions: Mapping[str, str]
    date: str

    def as_json(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return {
            "benchmark": "latency",
            **asdict(self),
            "metric": METRICS[self.scenario],
            "stable": not self.unstable,
            "rows": [row.as_json() for row in self.rows],
        }


def block(number: int, batch: int, sample: Mapping[str, Any]) -> Block:
    """Condense what a worker returned.

    Args:
        number: the round.
        batch: images a call.
        sample: as :func:`benchmarks.latency.timing_worker.measure` returns it.
    """
    calls = sample["calls_ms"]
    whole = summary(calls)
    return Block(
        number,
        len(calls),
        whole["mean"],
        whole["p50"],
        whole["p90"],
        whole["p99"],
        batch * len(calls) / sample["elapsed_s"],
        sample["warm"],
        sample["warm_up_s"],
        Load(**sample["load"]),
        sample["peak_rss_mib"],
        sample["energy_mj"],
        {part: summary(values) for part, values in sample["device"].items()},
    )


def summary(values: Sequence[float]) -> dict[str, float]:
    """Return ``mean``, ``p50``, ``p90`` and ``p99``."""
    p50, p90, p99 = (float(x) for x in np.percentile(values, [50, 90, 99]))
    return {"mean": statistics.fmean(values), "p50": p50, "p90": p90, "p99": p99}


def quantiles(calls_ms: Sequence[float]) -> dict[str, float]:
    """Return :data:`QUANTILES` of all calls, linear between neighbors, by percent."""
    found = np.percentile(calls_ms, QUANTILES)
    return {f"{percent:g}": float(value) for percent, value in zip(QUANTILES, found, strict=True)}


def speedup(row: Row, baseline: Row, scenario: Scenario) -> Ratio:
    """Return how many times as fast a row is as another, round by round.

    Raises:
        ValueError: their rounds do not pair up, or there are fewer than two.
    """
    slow, fast = baseline.costs(scenario), row.costs(scenario)
    low, high = ratio_interval(slow, fast)
    return Ratio(baseline.engine, ratio_of_medians(slow, fast), low, high)
