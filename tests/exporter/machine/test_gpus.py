"""Which of several GPUs is in use."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest

from exporter.errors import Missing
from exporter.machine import gpus
from exporter.machine.gpus import Gpu

T4, A100 = Gpu("T4", 15360, "7.5", "580"), Gpu("A100", 40960, "8.0", "580")


def cuda(monkeypatch: pytest.MonkeyPatch, name: str, major: int, minor: int) -> None:
    """CUDA's device 0, whatever NVML calls first."""
    found = SimpleNamespace(name=name.encode(), major=major, minor=minor)
    runtime = SimpleNamespace(
        cudaGetDevice=lambda: (0, 0), cudaGetDeviceProperties=lambda index: (0, found)
    )
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", runtime)  # type: ignore[arg-type]


def test_cuda_says_which_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda(monkeypatch, "A100", 8, 0)
    assert gpus.in_use((T4, A100)) == A100


def test_one_kind_needs_no_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", None)
    assert gpus.in_use((T4, T4)) == T4
    assert gpus.in_use(()) is None


def test_without_cuda_nothing_is_guessed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", None)
    with pytest.raises(Missing, match="it is unknown which one CUDA uses"):
        gpus.in_use((T4, A100))


def test_a_cuda_that_can_not_answer_decides_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """As cuda-bindings 13 under an older driver: a status, and None in the result's place."""

    def properties(index: int) -> tuple[int, SimpleNamespace]:
        raise TypeError("an integer is required")

    runtime = SimpleNamespace(cudaGetDevice=lambda: (35, None), cudaGetDeviceProperties=properties)
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", runtime)  # type: ignore[arg-type]
    assert (gpus.by_cuda(), gpus.bus_id_in_use()) == (None, None)
    with pytest.raises(Missing, match="it is unknown which one CUDA uses"):
        gpus.in_use((T4, A100))


def test_the_bus_id_as_nvml_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    runtime = SimpleNamespace(
        cudaGetDevice=lambda: (0, 1),
        cudaDeviceGetPCIBusId=lambda length, index: (0, b"0000:3B:00.0".ljust(length, b"\0")),
    )
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", runtime)  # type: ignore[arg-type]
    assert gpus.bus_id_in_use() == "0000:3b:00.0"


def test_a_gpu_says_whether_it_has_fp8() -> None:
    assert gpus.Gpu("A").described == "A"
    assert gpus.Gpu("L4", None, "8.9").described == "L4 (compute capability 8.9, FP8)"
    assert gpus.Gpu("A10", None, "8.6").described == "A10 (compute capability 8.6, no FP8)"
