"""Read trtexec's measurements: ``--exportTimes`` by iteration, ``--exportProfile`` by layer.

With it, an engine timed on another machine can be listed in the same table. trtexec measures with
CUDA events: GPU compute alone, copies to and from the device, and the time to enqueue on the host.
Its defaults changed between releases (from 11.1 on, CUDA graph and spin-wait are on and transfers
are off), so a time is useless without its settings. Tests compare this reader with a record that
NVIDIA published and with the summary that trtexec itself printed for it.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.latency.machine_watch import Load
from benchmarks.latency.result import Block, Row, quantiles
from exporter.errors import ExporterError

WARM_UP_MS = 200.0  # trtexec's default for --warmUp
_FIELDS = (
    "startEnqMs",
    "endEnqMs",
    "startComputeMs",
    "endD2hMs",
    "h2dMs",
    "computeMs",
    "d2hMs",
    "latencyMs",
)


@dataclass(frozen=True)
class Summary:
    """Milliseconds over all iterations, by the rules of trtexec's own summary."""

    minimum: float
    maximum: float
    mean: float
    median: float
    p90: float
    p95: float
    p99: float


@dataclass(frozen=True)
class Times:
    """One engine's iterations after the warm-up, in milliseconds, with one value per iteration.

    Attributes:
        latency: copy in, compute and copy out, end to end on the device.
        compute: time between CUDA events around the kernels.
        enqueue: time for the host to enqueue the work. trtexec writes clocks with six digits, so
            after some seconds of a run these have steps of 0.01.
        copies: copies in and out together; all zero if trtexec left them out.
        wall: time from the first enqueue to the last result.
    """

    latency: tuple[float, ...]
    compute: tuple[float, ...]
    enqueue: tuple[float, ...]
    copies: tuple[float, ...]
    wall: float

    @property
    def has_copies(self) -> bool:
        """Whether the latency includes copies to and from the device."""
        return any(self.copies)

    @property
    def throughput(self) -> float:
        """Iterations per second."""
        return 1000 * len(self.latency) / self.wall

    @property
    def enqueue_bound(self) -> bool:
        """Whether the host took longer to enqueue the work than the GPU took to do it.

        trtexec warns in the same case. A CUDA graph would help.
        """
        return statistics.median(self.enqueue) > statistics.median(self.compute)


@dataclass(frozen=True)
class Layer:
    """One layer of ``--exportProfile``: its name, mean milliseconds and share of the whole."""

    name: str
    mean_ms: float
    share: float


def read_times(file: Path, warm_up_ms: float = WARM_UP_MS) -> Times:
    """Read ``--exportTimes``.

    Args:
        file: the file that trtexec wrote.
        warm_up_ms: leave out iterations whose compute starts earlier, as trtexec's summary does.
            Use 0 for releases that already leave them out of the file.

    Raises:
        ExporterError: it is not such a file, or has no iterations after the warm-up.
    """
    rows = [row for row in _records(file, _FIELDS) if row["startComputeMs"] >= warm_up_ms]
    if not rows:
        raise ExporterError(
            f"{file} has no iteration after {warm_up_ms:g} ms of warm-up",
            hint="measure for longer: trtexec --duration=10",
        )
    return Times(
        latency=tuple(float(row["latencyMs"]) for row in rows),
        compute=tuple(float(row["computeMs"]) for row in rows),
        enqueue=tuple(float(row["endEnqMs"] - row["startEnqMs"]) for row in rows),
        copies=tuple(float(row["h2dMs"] + row["d2hMs"]) for row in rows),
        wall=float(rows[-1]["endD2hMs"] - rows[0]["startEnqMs"]),
    )


def read_profile(file: Path) -> tuple[Layer, ...]:
    """Read ``--exportProfile``, in the order of the engine's layers.

    Raises:
        ExporterError: it is not such a file.
    """
    rows = _records(file, ("name", "averageMs", "percentage"), skip="count")
    return tuple(
        Layer(str(row["name"]), float(row["averageMs"]), float(row["percentage"]) / 100)
        for row in rows
    )


def as_row(engine: str, batch: int, times: Times, settings: Mapping[str, Any]) -> Row:
    """Turn an engine's times into a row like other engines'. One block has no interval.

    Args:
        engine: name for the row.
        batch: images per iteration.
        times: the engine's times.
        settings: trtexec's settings, as far as known: CUDA graph, spin-wait, transfers, streams,
            GPU and its clocks, TensorRT's version.
    """
    found = summarize(times.latency)
    unknown = Load(others=None, stolen=None, throttled_s=None, throttle_events=None, mhz=None)
    block = Block(
        round=0,
        calls=len(times.latency),
        mean_ms=found.mean,
        p50_ms=found.median,
        p90_ms=found.p90,
        p99_ms=found.p99,
        throughput=batch * times.throughput,
        warm=True,
        warm_up_s=WARM_UP_MS / 1000,
        load=unknown,
        peak_rss_mib=None,
    )
    noted = {
        "measured_by": "trtexec --exportTimes, CUDA events, on another machine",
        "transfers": times.has_copies,
        "enqueue_bound": times.enqueue_bound,
        "gpu_compute_ms": asdict(summarize(times.compute)),
        "enqueue_ms": asdict(summarize(times.enqueue)),
        **settings,
    }
    return Row(engine, batch, (block,), quantiles(times.latency), settings=noted)


def summarize(values: Sequence[float]) -> Summary:
    """Summarize as trtexec does: percentile p is the sorted value at index floor(p * n).

    Raises:
        ValueError: there are no values.
    """
    if not values:
        raise ValueError("there are no values to summarize")
    ordered = sorted(values)

    def percentile(share: float) -> float:
        return ordered[min(len(ordered) - 1, math.floor(share * len(ordered)))]

    return Summary(
        ordered[0],
        ordered[-1],
        statistics.fmean(ordered),
        statistics.median(ordered),
        percentile(0.90),
        percentile(0.95),
        percentile(0.99),
    )


def _records(file: Path, needed: Sequence[str], skip: str | None = None) -> list[Mapping[str, Any]]:
    """Read a list of objects that all have some fields; ``skip`` marks a header object."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ExporterError(f"{file} is not JSON: {error}") from error
    rows = found if isinstance(found, list) else []
    rows = [row for row in rows if not (isinstance(row, dict) and skip is not None and skip in row)]
    if not rows or not all(isinstance(row, dict) and row.keys() >= set(needed) for row in rows):
        raise ExporterError(
            f"{file} is not from trtexec: it should be a list of objects with {', '.join(needed)}"
        )
    return rows
