"""The results of a latency measurement: rows, ratios and stability, also as JSON."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np

from benchmarks.latency.bootstrap import ratio_interval, ratio_of_medians
from benchmarks.latency.machine_watch import Load

Scenario = Literal["sweep", "single-stream", "offline"]

# The metric by scenario. Two are from MLPerf Inference's policies ("Scenarios": 90th percentile
# latency; samples per second).
METRICS: dict[Scenario, str] = {
    "sweep": "median latency",
    "single-stream": "90th percentile latency",
    "offline": "samples per second",
}
QUANTILES = (0, 1, 5, 10, 25, 50, 75, 90, 95, 99, 99.9, 100)


@dataclass(frozen=True)
class Block:
    """One engine at one batch size in one round, in one process.

    Attributes:
        round: number of the round, from 0.
        calls: how many were timed; p50_ms, p90_ms, p99_ms and mean_ms are per call.
        throughput: samples per second over the block's whole time.
        warm: whether the time of a call settled during the warm-up of ``warm_up_s``.
        load: other load on the machine.
        peak_rss_mib: memory of the process, including Python and its libraries.
        energy_mj: millijoules per sample by meter; empty if the machine does not report it.
        device_ms: on a GPU, ``p50``, ``p90``, ``p99`` and ``mean`` of a call by part, as in
            :class:`exporter.network.runner.DeviceTimes`; empty for a CPU engine.
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
        """Return the scenario's metric in milliseconds: less is better."""
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
        """Return text such as ``3.91x [3.84, 4.02]``."""
        return f"{self.ratio:.2f}x [{self.low:.2f}, {self.high:.2f}]"


@dataclass(frozen=True)
class Row:
    """One engine at one batch size.

    Attributes:
        engine: the engine's name.
        batch: images per call.
        blocks: one per round; empty if it failed.
        quantiles_ms: quantiles over all calls of all rounds, by percent.
        speedup: over the baseline; None for the baseline itself, and if either failed.
        settings: the runtime's settings.
        file_bytes: size of the deployed files; None for the original.
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
        """The largest value of any round."""
        return max((b.peak_rss_mib for b in self.blocks if b.peak_rss_mib), default=None)

    @property
    def energy_mj(self) -> dict[str, float]:
        """Millijoules per sample by meter, medians of the rounds."""
        return {
            meter: statistics.median(b.energy_mj[meter] for b in self.blocks)
            for meter in sorted(set.intersection(*(set(b.energy_mj) for b in self.blocks)))
        }

    def costs(self, scenario: Scenario) -> list[float]:
        """Return the scenario's metric in milliseconds, round by round."""
        return [block.cost(scenario, self.batch) for block in self.blocks]

    def as_json(self) -> dict[str, Any]:
        """Return the fields, and the figures derived from them, as JSON values."""
        found: dict[str, Any] = {**asdict(self), "blocks": [asdict(b) for b in self.blocks]}
        if self.blocks:
            for name in ("mean_ms", "throughput", "peak_rss_mib", "energy_mj"):
                found[name] = getattr(self, name)
        return found


@dataclass(frozen=True)
class Report:
    """A whole measurement.

    Attributes:
        scenario: decides which metric is compared, see :data:`METRICS`.
        baseline: the row that ratios refer to: the compiled Keras original, if it was timed.
        rows: by batch size, then in the order of the engines.
        unstable: reasons not to trust the result; empty if there are none.
        verdicts: whether lower precision pays off, one sentence each.
        settings: of the measurement: rounds, seconds, threads, cores, seed, data.
        machine: the machine, and how busy it was at the start.
        versions: versions of all software involved.
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
    """Condense a worker's answer.

    Args:
        number: the round.
        batch: images per call.
        sample: the result of :func:`benchmarks.latency.timing_worker.measure`.
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
        ValueError: they differ in their number of rounds, or there are fewer than two.
    """
    slow, fast = baseline.costs(scenario), row.costs(scenario)
    low, high = ratio_interval(slow, fast)
    return Ratio(baseline.engine, ratio_of_medians(slow, fast), low, high)
