"""The header of every benchmark's result file, and how the file is written."""

from __future__ import annotations

import datetime
import json
import os
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from calibration.whole_file import write_whole


def header(benchmark: str) -> dict[str, Any]:
    """Return what makes a number traceable: benchmark, date, command, machine, versions.

    Args:
        benchmark: the module's name under ``benchmarks``, such as ``studies.export_time``.
    """
    return {
        "benchmark": benchmark.rpartition(".")[2],
        "command": shlex.join(["python", "-m", f"benchmarks.{benchmark}", *sys.argv[1:]]),
        **made_here(),
        "machine": machine(),
    }


def made_here() -> dict[str, Any]:
    """Return date, machine and versions, for results that other load does not affect."""
    from exporter.artifact.passport import versions

    return {
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "machine": place(),
        "versions": versions(),
    }


def machine() -> dict[str, Any]:
    """Return the machine, and its load before the first measurement."""
    return {**place(), "load_average_1min": os.getloadavg()[0]}


def place() -> dict[str, Any]:
    """Describe this machine."""
    from exporter.diagnosis import diagnose

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
    """Name the processor of :func:`place`, with the instruction sets that matter for INT8."""
    sets = machine.get("instruction_sets")
    return str(machine["cpu"]) + (f" with {sets.replace(' ', ', ')}" if sets else "")


def write(report: dict[str, Any], output: Path) -> None:
    """Write a report as JSON, atomically. The folder is made if it is missing."""
    write_whole(output, json.dumps(report, indent=1) + "\n")
