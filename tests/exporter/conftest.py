"""The fixtures that the tests of training share."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from exporter.models import checkpoint, zoo
from exporter.training import train
from tests.exporter.training_runs import tiny_build


@pytest.fixture
def tiny(keras: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zoo, "build", tiny_build)


@pytest.fixture
def quick(tiny: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without tracing the training step nor drawing, which is most of a tiny run's time."""
    compile_ = train._compile

    def compile_eagerly(keras: Any, model: Any, *rest: Any) -> None:
        compile_(keras, model, *rest)
        model.run_eagerly = True

    monkeypatch.setattr(train, "_compile", compile_eagerly)
    monkeypatch.setattr(train, "_plot", lambda history, path: None)


@pytest.fixture
def weights_at_the_end(monkeypatch: pytest.MonkeyPatch) -> list[list[np.ndarray]]:
    """Collect the weights of each finished run, before they are rounded to half."""
    collected: list[list[np.ndarray]] = []
    save_half = checkpoint.save_half

    def spy(model: Any, path: Path, card: dict[str, Any]) -> None:
        collected.append(model.get_weights())
        save_half(model, path, card)

    monkeypatch.setattr(checkpoint, "save_half", spy)
    return collected
