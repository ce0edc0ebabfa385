"""Clocks of GPUs and what held them back, by a stand-in for NVML: not run on a GPU."""

from __future__ import annotations

import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from benchmarks.latency import energy, gpu_watch
from benchmarks.latency.gpu_watch import GpuState, decode_reasons, read_gpus
from benchmarks.latency.result import Block, Row
from benchmarks.latency.stability import reasons
from tests.benchmarks.latency_jobs import QUIET, row

STAND_INS = Path(__file__).parents[2] / "stand_ins"


@pytest.fixture
def nvml(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(STAND_INS))
    monkeypatch.delitem(sys.modules, "pynvml", raising=False)


def test_reasons_by_bit() -> None:
    assert decode_reasons(0x1 | 0x2 | 0x100) == (), "idle, or clocks that somebody set"
    assert decode_reasons(0x8 | 0x20 | 0x80) == (
        "hardware slowdown",
        "software thermal slowdown",
        "power brake",
    )


def test_a_gpu_and_its_energy(nvml: None) -> None:
    held = ("power cap", "hardware thermal slowdown")
    assert read_gpus() == (GpuState(0, 1410.0, held),)
    assert energy.read_nvml() == {"NVML GPU 0, the whole board": energy.Counter(7.5)}


def test_of_several_the_one_that_cuda_uses(nvml: None, monkeypatch: pytest.MonkeyPatch) -> None:
    import pynvml  # type: ignore[import-not-found, unused-ignore]

    monkeypatch.setattr(pynvml, "nvmlDeviceGetCount", lambda: 3)
    monkeypatch.setattr(gpu_watch, "bus_id_in_use", lambda: "0000:02:00.0")
    assert [state.index for state in read_gpus()] == [2]
    monkeypatch.setattr(gpu_watch, "bus_id_in_use", lambda: None)
    assert [state.index for state in read_gpus()] == [0, 1, 2], "nothing tells"


def test_without_a_driver_there_is_nothing(nvml: None, monkeypatch: pytest.MonkeyPatch) -> None:
    import pynvml  # type: ignore[import-not-found, unused-ignore]

    def no_driver() -> None:
        raise pynvml.NVMLError

    monkeypatch.setattr(pynvml, "nvmlInit", no_driver)
    assert gpu_watch.read_gpus() == ()


def test_a_gpu_that_was_held_back_makes_a_run_unstable() -> None:
    quiet, hot = GpuState(0, 1980.0, ()), GpuState(0, 1200.0, ("power cap",))
    steady = [5.0] * 5
    calm = row("keras", steady, load=replace(QUIET, gpus=(asdict(quiet),)))
    assert reasons([calm], "keras", "sweep", None) == ()
    slow = row("trt", steady, load=replace(QUIET, gpus=(asdict(hot),)))
    (found,) = reasons([calm, slow], "keras", "sweep", None)
    assert found == "a GPU was slowed down in 5 of 10 blocks: power cap"


def test_a_gpus_clock_counts_where_the_gpu_worked() -> None:
    def block(mhz: float, worked: bool = True) -> Block:
        load = replace(QUIET, gpus=(asdict(GpuState(0, mhz, ())),))
        (one,) = row("trt", [5.0], load=load).blocks
        return replace(one, device_ms={"compute_ms": {"p50": 1.0}} if worked else {})

    def said(blocks: list[Block]) -> tuple[str, ...]:
        return reasons([Row("trt", 1, tuple(blocks))], "keras", "sweep", None)

    assert said([block(1980.0)] * 4 + [block(210.0, worked=False)]) == (), "idle meanwhile"
    assert said([block(1980.0)] * 4 + [block(1500.0)]) == (
        "GPU 0's clock fell to 1500 MHz from its usual 1980 MHz",
    )
