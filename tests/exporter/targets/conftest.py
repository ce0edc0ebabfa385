"""A machine with TensorRT and a GPU, as far as stand-ins can be one: for wiring only."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import pytest

STAND_INS = Path(__file__).parents[2] / "stand_ins"
NAMES = ("tensorrt", "pynvml", "cuda", "cuda.bindings", "cuda.bindings.runtime")


@pytest.fixture
def stand_ins(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Put the stand-ins first on the path; returns the one for TensorRT."""
    for name in NAMES:
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.syspath_prepend(STAND_INS)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    yield importlib.import_module("tensorrt")
    for name in NAMES:
        sys.modules.pop(name, None)
