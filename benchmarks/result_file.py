"""What every benchmark's result file begins with, and how it is written."""

from __future__ import annotations

import datetime
import json
import os
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def header(benchmark: str) -> dict[str, Any]:
    """Return what makes a figure traceable: benchmark, date, command, machine, versions.

    Args:
        benchmark: the module's name under ``benchmarks``.
    """
    return {
        "benchmark": benchmark,
        "command": shlex.join(["python", "-m", f"benchmarks.{benchmark}", *sys.argv[1:]]),
        **made_here(),
        "machine": machine(),
    }


def made_here() -> dict[str, Any]:
    """Say when, where and with which versions a result is made that no other work disturbs."""
    from exporter.passport import versions

    return {
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "machine": place(),
        "versions": versions(),
    }


def machine() -> dict[str, Any]:
    """Say where this ran, and how busy it was before the first measurement."""
    return {**place(), "load_average_1min": os.getloadavg()[0]}


def place() -> dict[str, Any]:
    """Say which machine this is."""
    from exporter.doctor import diagnose

    found = diagnose()
    sets = found.cpu.instruction_sets
    return {
        "cpu": found.cpu.model,
        "instruction_sets": sets and " ".join(name for name, here in sets.items() if here),
        "usable_cores": found.cpu.usable_cores,
        "architecture": found.architecture,
        "system": found.system,
    }


def processor(machine: Mapping[str, Any]) -> str:
    """Name the processor of :func:`place`, with the instruction sets that decide over INT8."""
    sets = machine.get("instruction_sets")
    return str(machine["cpu"]) + (f" with {sets.replace(' ', ', ')}" if sets else "")


def write(report: dict[str, Any], output: Path) -> None:
    """Write a report as JSON into a folder that is there, whole or not at all."""
    part = output.with_name(f"{output.name}.part")
    try:
        part.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
        part.replace(output)
    finally:
        part.unlink(missing_ok=True)
