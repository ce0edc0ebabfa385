"""Watch what else the machine does during a timing: other work, throttling, clocks.

Other work on the machine makes a timing worthless. We read the counters right before and right
after a block. Everything that the pinned cores did in between, except for the timed process, is
other work. A value that the system does not report is None, never zero.
"""

from __future__ import annotations

import os
import re
import statistics
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_TICK_S = 1 / os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Reading:
    """Counters at one moment.

    Attributes:
        wall_s: monotonic clock.
        own_s: CPU time of all threads of this process.
        busy_s: CPU time that the watched cores spent on any work.
        stolen_s: CPU time that a hypervisor took from them.
        throttled_s: time for which this control group's CPU quota held it back.
        throttle_events: how often the cores slowed down for heat, by the kernel's count.
        mhz: mean clock of the watched cores.
    """

    wall_s: float
    own_s: float
    busy_s: float | None
    stolen_s: float | None
    throttled_s: float | None
    throttle_events: int | None
    mhz: float | None


@dataclass(frozen=True)
class Load:
    """Other load during a block; shares are of the watched cores' time.

    Attributes:
        others: share that other processes took.
        stolen: share that the hypervisor took.
        throttled_s: time held back by a CPU quota.
        throttle_events: how often heat slowed the cores down.
        mhz: mean clock before and after.
        gpus: states at the end, as in :class:`benchmarks.latency.gpu_watch.GpuState`.
    """

    others: float | None
    stolen: float | None
    throttled_s: float | None
    throttle_events: int | None
    mhz: float | None
    gpus: Sequence[Mapping[str, Any]] = ()


def read(cores: Collection[int], root: Path = Path("/")) -> Reading:
    """Take a reading of some cores.

    Args:
        cores: their numbers.
        root: folder that contains ``proc`` and ``sys``.
    """
    busy, stolen = parse_stat(_text(root / "proc/stat"), cores)
    return Reading(
        wall_s=time.perf_counter(),
        own_s=time.process_time(),
        busy_s=busy,
        stolen_s=stolen,
        throttled_s=parse_cgroup(_text(root / "sys/fs/cgroup/cpu.stat")),
        throttle_events=_throttle_events(cores, root),
        mhz=_mhz(cores, root),
    )


def listen(cores: Collection[int], seconds: float) -> float | None:
    """Return the share of some cores' time that other processes take while this one sleeps."""
    before = read(cores)
    time.sleep(seconds)
    return between(before, read(cores), len(cores) or 1).others


def between(before: Reading, after: Reading, cores: int) -> Load:
    """Return the load between two readings.

    Args:
        before: the earlier reading.
        after: the later one, of the same cores and in the same process.
        cores: number of watched cores.
    """
    time_s = (after.wall_s - before.wall_s) * cores
    busy, stolen = _grown(before.busy_s, after.busy_s), _grown(before.stolen_s, after.stolen_s)
    own = after.own_s - before.own_s
    clocks = [mhz for mhz in (before.mhz, after.mhz) if mhz is not None]
    events = _grown(before.throttle_events, after.throttle_events)
    return Load(
        others=None if busy is None else max(0.0, busy - own) / time_s,
        stolen=None if stolen is None else stolen / time_s,
        throttled_s=_grown(before.throttled_s, after.throttled_s),
        throttle_events=None if events is None else int(events),
        mhz=statistics.fmean(clocks) if clocks else None,
    )


def peak_rss_mib(root: Path = Path("/")) -> float | None:
    """Return the most memory this process ever had resident.

    This is not ``ru_maxrss``, because a child starts with its parent's value, see getrusage(2).
    """
    found = re.search(r"^VmHWM:\s+(\d+) kB$", _text(root / "proc/self/status"), re.MULTILINE)
    return None if found is None else int(found[1]) / 1024


def parse_stat(text: str, cores: Collection[int]) -> tuple[float | None, float | None]:
    """Return the busy and the stolen seconds of some cores from the text of ``/proc/stat``.

    The columns are as in proc_stat(5): user, nice, system, idle, iowait, irq, softirq, steal. The
    two after them, guest times, are already in user and nice. Some sandboxes show only zeros,
    which counts as unknown.
    """
    busy = stolen = 0
    seen = set()
    for line in text.splitlines():
        if not (found := re.match(r"cpu(\d+)((?: +\d+)+)", line)) or int(found[1]) not in cores:
            continue
        user, nice, system, _, _, irq, softirq, steal, *_ = (
            *map(int, found[2].split()),
            *([0] * 8),
        )
        busy += user + nice + system + irq + softirq
        stolen += steal
        seen.add(int(found[1]))
    if seen != set(cores) or not busy:
        return None, None
    return busy * _TICK_S, stolen * _TICK_S


def parse_cgroup(text: str) -> float | None:
    """Return the seconds a control group was throttled for, from its ``cpu.stat``."""
    found = re.search(r"^throttled_usec (\d+)$", text, re.MULTILINE)
    return None if found is None else int(found[1]) / 1e6


def parse_clocks(text: str) -> dict[int, float]:
    """Return each core's MHz from the text of ``/proc/cpuinfo``, which only x86 has."""
    clocks: dict[int, float] = {}
    core = None
    for line in text.splitlines():
        name, _, value = (part.strip() for part in line.partition(":"))
        if name == "processor" and value.isdecimal():
            core = int(value)
        elif name == "cpu MHz" and core is not None:
            clocks[core] = float(value)
    return clocks


def _mhz(cores: Collection[int], root: Path) -> float | None:
    """Return the mean clock from cpufreq, which has the current one, or from ``/proc/cpuinfo``."""
    folder = root / "sys/devices/system/cpu"
    khz = [_text(folder / f"cpu{core}" / "cpufreq/scaling_cur_freq").strip() for core in cores]
    if khz and all(value.isdecimal() for value in khz):
        return statistics.fmean(int(value) / 1000 for value in khz)
    clocks = parse_clocks(_text(root / "proc/cpuinfo"))
    found = [clocks[core] for core in cores if core in clocks]
    return statistics.fmean(found) if found else None


def _throttle_events(cores: Collection[int], root: Path) -> int | None:
    folder = root / "sys/devices/system/cpu"
    counts = [
        _text(folder / f"cpu{core}" / "thermal_throttle/core_throttle_count") for core in cores
    ]
    if not counts or not all(count.strip().isdecimal() for count in counts):
        return None
    return sum(map(int, counts))


def _grown(before: float | None, after: float | None) -> float | None:
    return None if before is None or after is None else after - before


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
