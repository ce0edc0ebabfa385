"""Energy meters on recorded lines and files; no machine of ours has one."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from benchmarks.latency import energy
from benchmarks.latency.energy import (
    Counter,
    Meters,
    module_power,
    parse_tegrastats,
    read_rapl,
    spent,
)
from benchmarks.latency.gpu_watch import parse_tegrastats_clock

# Recorded on Jetson boards. Orin Nano with JetPack 6: published log of an idle board under
# `jetson_clocks`; AGX Orin with JetPack 7.2: the line that jetson-stats' own tests carry.
ORIN_NANO = (
    "04-27-2026 15:00:54 RAM 779/7620MB (lfb 2x4MB) SWAP 0/3810MB (cached 0MB) "
    "CPU [0%@1344,0%@1344,0%@1344,0%@1344,0%@1344,0%@1344] GR3D_FREQ 0% cpu@50.125C "
    "soc2@49.125C soc0@49.25C gpu@50.562C tj@50.562C soc1@50.437C "
    "VDD_IN 6626mW/6625mW VDD_CPU_GPU_CV 1228mW/1230mW VDD_SOC 2380mW/2380mW "
)
AGX_ORIN = (
    "07-25-2026 09:08:28 RAM 20642/62817MB (lfb 1x2MB) CPU [23%@2201,10%@2201] "
    "EMC_FREQ 3%@3199 GR3D_FREQ 12%@[1300,1300] NVENC0 off APE 174 cpu@52.968C/52.968C "
    "VDD_GPU_SOC 5139mW/5139mW/5139mW VDD_CPU_CV 3268mW/3268mW/3268mW "
    "VIN_SYS_5V0 5500mW/5500mW/5500mW"
)


def test_rails_of_a_line() -> None:
    rails = {"VDD_IN": 6.626, "VDD_CPU_GPU_CV": 1.228, "VDD_SOC": 2.38}
    assert parse_tegrastats(ORIN_NANO) == rails
    rails = {"VDD_GPU_SOC": 5.139, "VDD_CPU_CV": 3.268, "VIN_SYS_5V0": 5.5}
    assert parse_tegrastats(AGX_ORIN) == rails


def test_lines_without_units_are_older_ones() -> None:
    assert parse_tegrastats("thermal@33.9C VDD_IN 3902/3611 VDD_SOC 997/941") == {
        "VDD_IN": 3.902,
        "VDD_SOC": 0.997,
    }


def test_the_widest_rails_are_taken_and_named() -> None:
    lines = [ORIN_NANO, ORIN_NANO.replace("VDD_IN 6626", "VDD_IN 6628")]
    assert module_power(lines) == ("tegrastats VDD_IN", pytest.approx(6.627))
    name = "tegrastats VDD_GPU_SOC + VDD_CPU_CV + VIN_SYS_5V0"
    assert module_power([AGX_ORIN]) == (name, pytest.approx(13.907))
    assert module_power(["RAM 1/2MB", ""]) is None


def test_rapl_zones_and_one_that_only_root_may_read(tmp_path: Path) -> None:
    zones = tmp_path / "sys/class/powercap"
    for zone, name, counted in (("0", "package-0", "2500000"), ("0:0", "dram", None)):
        folder = zones / f"intel-rapl:{zone}"
        folder.mkdir(parents=True)
        (folder / "name").write_text(f"{name}\n")
        (folder / "max_energy_range_uj").write_text("262143328850\n")
        if counted is not None:
            (folder / "energy_uj").write_text(f"{counted}\n")
    found = read_rapl(tmp_path)
    assert found == {"RAPL package-0 (0), all processes": Counter(2.5, 262143.32885)}
    assert read_rapl(tmp_path / "nowhere") == {}


def test_a_counter_may_wrap_once() -> None:
    before = {"a": Counter(90.0, 100.0), "b": Counter(5.0), "c": Counter(9.0), "gone": Counter(1.0)}
    after = {"a": Counter(15.0, 100.0), "b": Counter(7.5), "c": Counter(1.0)}
    assert spent(before, after) == {"a": 25.0, "b": 2.5}


def test_a_block_is_metered_by_counters_and_by_tegrastats(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "tegrastats"
    program.write_text(f"#!/bin/sh\nwhile true; do echo '{ORIN_NANO}'; sleep 0.01; done\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    counted = iter([{"RAPL": Counter(1.0)}, {"RAPL": Counter(3.5)}])
    monkeypatch.setattr(energy, "read_counters", lambda: next(counted))
    with Meters() as meters:
        started = time.perf_counter()
        time.sleep(0.3)
        least = time.perf_counter() - started
    assert meters.joules["RAPL"] == 2.5
    assert meters.gpu_mhz is None, "an Orin Nano's lines have no clock there"
    assert meters.joules["tegrastats VDD_IN"] == pytest.approx(6.626 * least, rel=0.5)


def test_a_machine_without_meters_tells_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr(energy, "read_counters", dict)
    with Meters() as meters:
        pass
    assert meters.joules == {}


def test_clock_of_a_jetsons_gpu() -> None:
    assert parse_tegrastats_clock(AGX_ORIN) == 1300.0
    assert parse_tegrastats_clock("GR3D_FREQ 12%@1134 VDD_IN 1/2") == 1134.0
    assert parse_tegrastats_clock(ORIN_NANO) is None
