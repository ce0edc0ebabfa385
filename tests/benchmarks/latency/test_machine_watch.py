"""What the kernel says of other work, read from recorded texts and from one real burner."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks.latency import machine_watch
from benchmarks.latency.machine_watch import (
    Reading,
    between,
    parse_cgroup,
    parse_clocks,
    parse_stat,
)

# The start of /proc/stat on a virtual machine of two cores, and the same 10 s later.
BEFORE = """cpu  2151227 502524 209163 555311 3591 0 2579 30435 0 0
cpu0 1018179 254432 97222 341418 881 0 233 15116 0 0
cpu1 1133048 248092 111941 213893 2710 0 2346 15319 0 0
intr 12345 0 0
"""
AFTER = """cpu  2152027 502534 209183 556451 3591 0 2589 30455 0 0
cpu0 1018879 254432 97222 341708 881 0 233 15126 0 0
cpu1 1133148 248102 111961 214743 2710 0 2356 15329 0 0
intr 12399 0 0
"""
TICK = os.sysconf("SC_CLK_TCK")


def test_busy_and_stolen_time_of_chosen_cores() -> None:
    assert parse_stat(BEFORE, [1]) == pytest.approx(
        ((1133048 + 248092 + 111941 + 2346) / TICK, 15319 / TICK)
    )
    busy, stolen = (
        (after or 0) - (before or 0)
        for before, after in zip(parse_stat(BEFORE, [0, 1]), parse_stat(AFTER, [0, 1]), strict=True)
    )
    assert busy == pytest.approx((700 + 100 + 10 + 20 + 10) / TICK)
    assert stolen == pytest.approx(20 / TICK)


def test_what_is_not_told_is_unknown() -> None:
    assert parse_stat(BEFORE, [0, 2]) == (None, None)
    assert parse_stat("cpu0 0 0 0 0 0 0 0 0 0 0\n", [0]) == (None, None)
    assert parse_stat("", [0]) == (None, None)
    assert parse_cgroup("usage_usec 5\n") is None
    assert parse_cgroup("usage_usec 5\nnr_throttled 3\nthrottled_usec 2500000\n") == 2.5


def test_clocks_by_core() -> None:
    text = "processor\t: 0\ncpu MHz\t\t: 2445.424\n\nprocessor\t: 1\ncpu MHz\t\t: 1200.000\n"
    assert parse_clocks(text) == {0: 2445.424, 1: 1200.0}


def test_cpufreq_goes_before_cpuinfo(tmp_path: Path) -> None:
    for name, content in (
        ("proc/stat", BEFORE),
        ("proc/cpuinfo", "processor : 1\ncpu MHz : 1000.0\n"),
        ("sys/devices/system/cpu/cpu1/thermal_throttle/core_throttle_count", "7\n"),
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    found = machine_watch.read([1], tmp_path)
    assert (found.mhz, found.throttle_events, found.throttled_s) == (1000.0, 7, None)
    frequency = tmp_path / "sys/devices/system/cpu/cpu1/cpufreq/scaling_cur_freq"
    frequency.parent.mkdir()
    frequency.write_text("2100000\n")
    assert machine_watch.read([1], tmp_path).mhz == 2100.0


def test_others_are_what_is_busy_but_not_ours() -> None:
    before = Reading(0.0, 1.0, 100.0, 5.0, 0.5, 3, 3000.0)
    after = Reading(10.0, 13.0, 117.0, 6.0, 0.75, 4, 2000.0)
    load = between(before, after, cores=2)  # 20 s of cores: 12 ours, 5 others', 1 stolen
    assert load.others == pytest.approx(0.25)
    assert load.stolen == pytest.approx(0.05)
    assert (load.throttled_s, load.throttle_events, load.mhz) == (0.25, 1, 2500.0)


def test_peak_memory_is_this_process_own(tmp_path: Path) -> None:
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/status").write_text("VmPeak:\t 9000 kB\nVmHWM:\t    2048 kB\n")
    assert machine_watch.peak_rss_mib(tmp_path) == 2.0


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="cores can't be chosen here")
def test_a_neighbour_on_the_same_core_is_noticed() -> None:
    cores = [max(os.sched_getaffinity(0))]
    if machine_watch.read(cores).busy_s is None:
        pytest.skip("/proc/stat tells nothing here")
    code = f"import os; os.sched_setaffinity(0, {cores}); print(1, flush=True)\nwhile True: pass"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as burner:
        try:
            assert burner.stdout is not None
            burner.stdout.readline()
            before = machine_watch.read(cores)
            time.sleep(0.5)  # this process rests, so what the core does is others' work
            load = between(before, machine_watch.read(cores), len(cores))
        finally:
            burner.kill()
    # Whoever else wants that core makes it no less busy.
    assert load.others is not None
    assert load.others > 0.5
