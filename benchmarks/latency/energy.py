"""Measure the energy of a block, if the machine reports it: RAPL, NVML, a Jetson's power rails.

Each meter covers a whole part of the machine, never a single process. So each number names the
part that its meter covers, and we never compare meters. NVML and tegrastats were NOT RUN here:
their readers are tested on stand-ins and on recorded lines.
"""

from __future__ import annotations

import contextlib
import re
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from benchmarks.latency.gpu_watch import parse_tegrastats_clock
from exporter.machine.gpus import open_nvml

_INTERVAL_MS = 100

# Rails as in NVIDIA's Jetson Linux Developer Guide (Platform Power and Performance). The first
# entry that a board has covers most. AGX Orin has no rail for the whole module, but the three of
# the last entry, which do not overlap.
_WHOLE = (("VDD_IN",), ("POM_5V_IN",), ("VIN",), ("VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0"))
_RAIL = re.compile(r"\b(V[A-Z0-9_]+|POM_[A-Z0-9_]+) (\d+)(?:mW)?/(\d+)(?:mW)?")


@dataclass(frozen=True)
class Counter:
    """A meter that only counts up.

    Attributes:
        joules: energy since an unknown moment.
        wraps_at: the value at which it starts again from 0; None if it never does.
    """

    joules: float
    wraps_at: float | None = None


class Meters:
    """Measure joules inside the ``with`` block, by the part that each meter covers.

    Counters are read before and after. ``tegrastats`` runs in between, if it is installed.
    """

    def __enter__(self) -> Meters:
        """Start measuring."""
        self._watts = tempfile.TemporaryFile("w+")  # a pipe would fill up
        self._tegrastats = _start_tegrastats(self._watts)
        self._before = read_counters()
        self._started = time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop measuring; set :attr:`joules`, and ``gpu_mhz`` if tegrastats reports it."""
        elapsed_s = time.perf_counter() - self._started
        self.gpu_mhz: float | None = None
        self.joules = spent(self._before, read_counters())
        with self._watts as said:
            if self._tegrastats is not None:
                self._tegrastats.terminate()
                self._tegrastats.wait()
                said.seek(0)
                lines = said.readlines()
                clocks = [mhz for line in lines if (mhz := parse_tegrastats_clock(line))]
                self.gpu_mhz = statistics.median(clocks) if clocks else None
                if (found := module_power(lines)) is not None:
                    name, watts = found
                    self.joules[name] = watts * elapsed_s


def _start_tegrastats(output: IO[str]) -> subprocess.Popen[str] | None:
    program = shutil.which("tegrastats")
    if program is None:
        return None
    command = [program, "--interval", str(_INTERVAL_MS)]
    try:
        return subprocess.Popen(command, stdout=output, stderr=subprocess.DEVNULL, text=True)
    except OSError:
        return None


def read_counters(root: Path = Path("/")) -> dict[str, Counter]:
    """Read every counting meter of this machine, by the part that it covers."""
    return {**read_rapl(root), **read_nvml()}


def spent(before: Mapping[str, Counter], after: Mapping[str, Counter]) -> dict[str, float]:
    """Return the joules between two readings, for the meters that are in both.

    If a counter fell, it wrapped around once. Blocks are far too short for more.
    """
    found = {}
    for name in before.keys() & after.keys():
        joules = after[name].joules - before[name].joules
        if joules < 0:
            wraps_at = after[name].wraps_at
            if wraps_at is None:
                continue
            joules += wraps_at
        found[name] = joules
    return found


def read_rapl(root: Path = Path("/")) -> dict[str, Counter]:
    """Read RAPL's zones from the kernel (Documentation/power/powercap).

    Most systems let only root read them. Unreadable zones are left out.
    """
    found = {}
    for zone in sorted((root / "sys/class/powercap").glob("intel-rapl:*")):
        try:
            name = (zone / "name").read_text().strip()
            counted = int((zone / "energy_uj").read_text())
            most = int((zone / "max_energy_range_uj").read_text())
        except (OSError, ValueError):
            continue
        number = zone.name.partition(":")[2]
        found[f"RAPL {name} ({number}), all processes"] = Counter(counted / 1e6, most / 1e6)
    return found


def read_nvml() -> dict[str, Counter]:
    """Read each NVIDIA GPU's energy since its driver was loaded (Volta and later)."""
    found: dict[str, Counter] = {}
    with open_nvml() as nvml:
        if nvml is None:
            return found
        with contextlib.suppress(nvml.NVMLError):  # keep the values read before the error
            for index in range(nvml.nvmlDeviceGetCount()):
                handle = nvml.nvmlDeviceGetHandleByIndex(index)
                joules = nvml.nvmlDeviceGetTotalEnergyConsumption(handle) / 1000
                found[f"NVML GPU {index}, the whole board"] = Counter(joules)
    return found


def parse_tegrastats(line: str) -> dict[str, float]:
    """Return the current power in watts of each rail in a line of ``tegrastats``.

    Each rail reads ``NAME now/average``, in milliwatts. From JetPack 5 on, ``mW`` follows both
    numbers. JetPack 7 adds a third number.
    """
    return {name: int(now) / 1000 for name, now, _ in _RAIL.findall(line)}


def module_power(lines: Iterable[str]) -> tuple[str, float] | None:
    """Return the rails that cover most of the module, and their mean power in watts.

    Return None if no line has such rails.
    """
    samples = [parse_tegrastats(line) for line in lines]
    for rails in _WHOLE:
        watts = [sum(s[rail] for rail in rails) for s in samples if s.keys() >= set(rails)]
        if watts:
            return f"tegrastats {' + '.join(rails)}", statistics.fmean(watts)
    return None
