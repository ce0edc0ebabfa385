"""Keras' logits are kept only where that is asked for, and never given for anything else."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.accuracy import original
from benchmarks.accuracy.measure import Images
from exporter.progress import silent
from tests.benchmarks.drift.test_drift import SIDE, OnnxAsKeras, pixels, tiny


class Counted(OnnxAsKeras):
    """Counts how often the original runs."""

    runs = 0

    def __enter__(self) -> Counted:
        Counted.runs += 1
        super().__enter__()
        return self


@pytest.fixture
def images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Images:
    source, labels = tiny()
    np.savez(tmp_path / "data.npz", images=pixels(), labels=labels)
    monkeypatch.setattr(original, "KerasRunner", Counted)
    monkeypatch.setattr(Counted, "runs", 0)
    return Images.load(source, f"npz:{tmp_path / 'data.npz'}", None, silent)


def test_without_a_folder_it_runs_each_time(
    images: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(original.FOLDER, raising=False)
    first, second = (original.original_logits(images, silent) for _ in range(2))
    assert Counted.runs == 2
    np.testing.assert_array_equal(first, second)


@pytest.fixture
def kept(images: Images, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> np.ndarray:
    """The logits of a first run, kept in a folder that was not there."""
    monkeypatch.setenv(original.FOLDER, str(tmp_path / "new" / "kept"))
    return original.original_logits(images, silent)


def test_the_same_network_on_the_same_images_runs_once(images: Images, kept: np.ndarray) -> None:
    np.testing.assert_array_equal(original.original_logits(images, silent), kept)
    assert Counted.runs == 1
    with OnnxAsKeras(images.source) as oracle:
        expected = oracle.infer({"x": pixels().astype(np.float32) / 255})["y"]
    np.testing.assert_allclose(kept, expected, rtol=1e-5, atol=1e-5)  # one ulp a batch size


@pytest.mark.parametrize(
    "change",
    [
        lambda images: replace(images, count=20),
        lambda images: replace(images, source=replace(images.source, sha256="other")),
        lambda images: replace(images, source=replace(images.source, preprocessing="signed")),
    ],
)
def test_anything_else_runs_anew(images: Images, kept: np.ndarray, change: Any) -> None:
    original.original_logits(change(images), silent)
    assert Counted.runs == 2


def test_another_version_of_keras_runs_anew(
    images: Images, kept: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    versions = original.installed_versions()
    monkeypatch.setattr(original, "installed_versions", lambda: {**versions, "keras": "0"})
    original.original_logits(images, silent)
    assert Counted.runs == 2


def test_one_pixel_makes_other_images(images: Images, kept: np.ndarray, tmp_path: Path) -> None:
    changed = pixels()
    changed[7, SIDE // 2, 3] ^= 1
    np.savez(tmp_path / "other.npz", images=changed, labels=images.labels)
    other = Images.load(images.source, f"npz:{tmp_path / 'other.npz'}", None, silent)
    original.original_logits(other, silent)
    assert Counted.runs == 2
