"""How the terminal shows latency measurements."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from exporter.console import say, table

if TYPE_CHECKING:
    from benchmarks.latency_result import Report, Row

_COLUMNS = ("engine", "batch", "p50", "p90", "p99", "mean", "images/s", "times as fast (95%)")
_BESIDE = ("engine", "batch", "top-1", "file MB", "peak RSS MiB")


def show(report: Report, accuracies: Mapping[str, float]) -> None:
    """Show rows, what they cost beside time, verdicts, and whether to trust any of it.

    Args:
        report: the measurement.
        accuracies: top-1 by engine, as far as known.
    """
    settings = report.settings
    title = (
        f"Milliseconds a call; {settings['threads']} thread(s), {settings['rounds']} rounds; "
        f"compared: {_metric(report)}"
    )
    measured = [row for row in report.rows if row.blocks]
    table(title, _COLUMNS, [_line(row, report) for row in measured])
    table("Beside it", _BESIDE, [_beside(row, accuracies) for row in measured])
    for row in report.rows:
        if row.error is not None:
            say(f"{row.engine}, batch {row.batch}: failed: {row.error}", markup=False)
    _closing(report.verdicts, report)


def _closing(verdicts: Sequence[str], report: Report) -> None:
    say(f"baseline: {_baseline(report)}", markup=False)
    for verdict in verdicts:
        say(verdict, markup=False)
    say("stable" if not report.unstable else "unstable:", markup=False)
    for reason in report.unstable:
        say(f"  {reason}", markup=False)


def _baseline(report: Report) -> str:
    if report.baseline == "keras":
        return "the Keras original as one compiled tf.function in inference mode"
    if report.baseline == "keras-xla":
        return "the Keras original in inference mode, compiled by XLA"
    return f"{report.baseline} (no original was timed)"


def _metric(report: Report) -> str:
    from benchmarks.latency_result import METRICS

    return METRICS[report.scenario]


def _line(row: Row, report: Report) -> list[str]:
    q = row.quantiles_ms
    against = "1 (baseline)" if row.engine == report.baseline else str(row.speedup or "-")
    against = against.replace("[", "\\[")  # no markup
    times = (q["50"], q["90"], q["99"], row.mean_ms)
    shown = [f"{ms:.3f}" for ms in times]
    return [
        row.engine,
        str(row.batch),
        *shown,
        f"{row.throughput:.0f}",
        against.replace("[", "\\["),
    ]


def _beside(row: Row, accuracies: Mapping[str, float]) -> list[str]:
    top1, rss = accuracies.get(row.engine), row.peak_rss_mib
    return [
        row.engine,
        str(row.batch),
        "-" if top1 is None else f"{top1:.4f}",
        "-" if row.file_bytes is None else f"{row.file_bytes / 1e6:.1f}",
        "-" if rss is None else f"{rss:.0f}",
    ]
