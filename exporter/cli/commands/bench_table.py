"""Show latency measurements in the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.markup import escape

from exporter.cli.console import say, table

if TYPE_CHECKING:
    from benchmarks.latency.result import Report, Row

_COLUMNS = ("engine", "batch", "p50", "p90", "p99", "mean", "images/s", "times as fast (95%)")
_PARTS = {
    "copy_in_ms": "copy in",
    "compute_ms": "compute",
    "copy_out_ms": "copy out",
    "enqueue_ms": "enqueue",
}
_BESIDE = ("engine", "batch", "top-1", "file MB", "peak RSS MiB")


def show(report: Report, accuracies: Mapping[str, float]) -> None:
    """Show latency, memory, energy, the verdicts, and whether the result is stable.

    Args:
        report: the measurement.
        accuracies: top-1 by engine, for the engines whose passports have it.
    """
    settings = report.settings
    title = (
        f"Milliseconds per call; {settings['threads']} thread(s), {settings['rounds']} rounds; "
        f"compared: {_metric(report)}"
    )
    measured = [row for row in report.rows if row.blocks]
    names = _short_names(measured)
    table(title, _COLUMNS, [_line(row, report, names) for row in measured])
    table("Accuracy and memory", _BESIDE, [_beside(row, accuracies, names) for row in measured])
    _device(measured, names)
    for row in measured:
        for meter, energy_mj in row.energy_mj.items():
            say(
                f"{row.engine}, batch {row.batch}: {energy_mj:.3g} mJ per image ({meter})",
                markup=False,
            )
    for row in report.rows:
        if row.error is not None:
            say(f"{row.engine}, batch {row.batch}: failed: {row.error}", markup=False)
    _closing(report.verdicts, report)


def _device(rows: Sequence[Row], names: Mapping[str, str]) -> None:
    """Show where a GPU engine spends its time: each round's median call, then their median."""
    from statistics import median

    lines = [
        [
            names[row.engine],
            str(row.batch),
            *(
                f"{median(block.device_ms[part]['p50'] for block in row.blocks):.3f}"
                for part in _PARTS
            ),
            "yes" if row.settings.get("cuda_graph") else "no",
        ]
        for row in rows
        if all(block.device_ms for block in row.blocks)
    ]
    if lines:
        columns = ("engine", "batch", *(_PARTS.values()), "CUDA graph")
        table("Milliseconds on the GPU by CUDA events (enqueue: host clock)", columns, lines)


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
    return report.baseline


def _metric(report: Report) -> str:
    from benchmarks.latency.result import METRICS

    return METRICS[report.scenario]


def _line(row: Row, report: Report, names: Mapping[str, str]) -> list[str]:
    q = row.quantiles_ms
    ratio = "1 (baseline)" if row.engine == report.baseline else str(row.speedup or "-")
    times = [f"{ms:.3f}" for ms in (q["50"], q["90"], q["99"], row.mean_ms)]
    return [names[row.engine], str(row.batch), *times, f"{row.throughput:.0f}", ratio]


def _short_names(rows: Sequence[Row]) -> dict[str, str]:
    """Name each artifact by its folder's name alone, if these names differ."""
    full = {row.engine for row in rows}
    short = {name: Path(name).name for name in full}
    unique = len(set(short.values())) == len(full)
    return {name: escape(short[name] if unique else name) for name in full}


def _beside(row: Row, accuracies: Mapping[str, float], names: Mapping[str, str]) -> list[str]:
    top1, rss = accuracies.get(row.engine), row.peak_rss_mib
    return [
        names[row.engine],
        str(row.batch),
        "-" if top1 is None else f"{top1:.4f}",
        "-" if row.file_bytes is None else f"{row.file_bytes / 1e6:.1f}",
        "-" if rss is None else f"{rss:.0f}",
    ]
