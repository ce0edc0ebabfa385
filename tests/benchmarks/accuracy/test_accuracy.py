"""How the test images are cut into the calls that an artefact takes."""

from __future__ import annotations

from pathlib import Path
from typing import NoReturn

import numpy as np
import pytest

from benchmarks.accuracy import measure as accuracy
from benchmarks.accuracy.measure import BATCH, cut, images_a_call
from exporter.artifact.folder import Artifact
from exporter.errors import Missing


@pytest.mark.parametrize(
    ("least", "most", "at_once"),
    [(1, None, None), (1, 32, 32), (1, 1, 1), (4, 8, 8), (1, 500, BATCH), (200, 500, 200)],
)
def test_an_engine_gets_no_more_than_it_takes(
    least: int, most: int | None, at_once: int | None
) -> None:
    batch = {"min": least, "opt": least, "max": most}
    assert images_a_call(Artifact(Path("a"), {"batch": batch})) == at_once


def test_an_engine_that_can_not_be_opened_is_told_before_keras_runs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(accuracy, "load_original", lambda *_: None)
    monkeypatch.setattr(accuracy.Images, "load", lambda *_: None)
    monkeypatch.setattr(accuracy, "original_logits", lambda *_: pytest.fail("Keras ran"))

    def opened(_: Artifact) -> NoReturn:
        raise Missing("it is not compiled")

    with pytest.raises(Missing, match="it is not compiled"):
        accuracy.evaluate([Artifact(Path("a"), {})], "fashion-mnist", opened=opened)


def test_all_images_come_once_and_every_call_is_full() -> None:
    images = np.arange(100)
    calls = list(cut({"x": images}, 32))
    assert [len(feed["x"]) for feed, _ in calls] == [32] * 4, "an engine may have a least size too"
    np.testing.assert_array_equal(
        np.concatenate([feed["x"][:real] for feed, real in calls]), images
    )
