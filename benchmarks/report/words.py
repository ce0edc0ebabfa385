"""Format numbers, names and places for readers."""

from __future__ import annotations

import datetime
from collections.abc import Iterable

from benchmarks.accuracy.paired import LEVEL, Paired
from benchmarks.latency.result import Ratio
from benchmarks.report.blocks import Source
from benchmarks.report.data import ORIGINALS, Findings, Origin
from exporter import targets

_MINUS = "\N{MINUS SIGN}"
_TOLD = ("onnxruntime", "openvino", "tensorflow", "tensorflow-cpu", "tensorrt", "tensorrt-rtx")
NOTHING = "\N{EN DASH}"


def signed(value: float) -> str:
    """Write a change with its sign; no sign if it rounds to 0."""
    shown = f"{value:+.2f}"
    return shown[1:] if float(shown) == 0 else shown.replace("-", _MINUS)


def percent(share: float | None) -> str:
    """Write an accuracy as a percentage."""
    return NOTHING if share is None else f"{100 * share:.2f}"


def decimals(value: float | None, digits: int) -> str:
    """Write a number with thousands separators."""
    return NOTHING if value is None else f"{value:,.{digits}f}"


def plain(value: object) -> str:
    """Write a setting; numbers without trailing zeros."""
    return f"{value:g}" if isinstance(value, (int, float)) else str(value)


def size(count: int) -> str:
    """Write bytes."""
    return f"{count / 1e6:.1f} MB" if count >= 1e5 else f"{count / 1e3:.1f} kB"


def interval(low: float, high: float) -> str:
    """Write the ends of an interval of changes."""
    return f"{signed(low)} to {signed(high)}"


def times(ratio: Ratio | None) -> str:
    """Write a speed-up."""
    return NOTHING if ratio is None else f"{ratio.ratio:.2f}x"


def times_interval(ratio: Ratio | None) -> str:
    """Write its interval."""
    return NOTHING if ratio is None else f"{ratio.low:.2f} to {ratio.high:.2f}"


def is_chance(tested: Paired) -> bool:
    """Whether a change of accuracy may be chance (p at or above 1 - LEVEL)."""
    return tested.p_value >= 1 - LEVEL


def sqnr(decibels: float | None, noise: float | None) -> str:
    """Write an SQNR in dB."""
    if decibels is not None:
        return f"{decibels:.1f}"
    return "exact" if noise == 0 else NOTHING


def when(date: str | None) -> str:
    """Format an ISO 8601 date; return any other text unchanged."""
    if date is None:
        return "date not recorded"
    try:
        return datetime.datetime.fromisoformat(date).strftime("%Y-%m-%d %H:%M %Z").strip()
    except ValueError:
        return date


def source(origin: Origin) -> Source:
    """Say where, when and with which versions and command something was measured."""
    machine = origin.machine
    place = "machine not recorded"
    if machine.get("cpu"):
        place = f"{machine['cpu']}, {machine.get('usable_cores', '?')} cores"
        place += f", {machine['system']}" if machine.get("system") else ""
    told = ", ".join(f"{name} {origin.versions[name]}" for name in _TOLD if name in origin.versions)
    where = "; ".join(part for part in (when(origin.date), place, told) if part)
    return Source(where, origin.command, origin.file)


def names(findings: Findings, engines: Iterable[str]) -> dict[str, str]:
    """Name engines: originals by kind, artifacts by folder, or by full path if that is taken."""
    found: dict[str, str] = {}
    for engine in dict.fromkeys(engines):
        name = ORIGINALS.get(engine) or engine.rstrip("/").rsplit("/", 1)[-1]
        subject = findings.subject(engine)
        if subject and subject.caution and "(simulated)" not in name:
            name += " (simulated)" if targets.simulates(subject.artifact) else ""
        found[engine] = engine if name in found.values() else name
    return found
