"""Which of several GPUs is in use."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest

from exporter import gpus
from exporter.errors import Missing
from exporter.gpus import Gpu

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
    with pytest.raises(Missing, match="nothing tells which is used"):
        gpus.in_use((T4, A100))
