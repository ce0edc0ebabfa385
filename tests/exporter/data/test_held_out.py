"""Which images a budget is measured on: none of the calibration's, none of the test set's."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from calibration.params import Params
from exporter.config import ExportConfig
from exporter.data.datasets import ArrayDataset
from exporter.data.feeds import training_data
from exporter.data.held_out import hold_out
from exporter.data.training_images import choose_images
from exporter.errors import WrongUse
from exporter.network.sources import Port, Source
from exporter.progress import silent
from tests.conftest import write_photos

SIZE = (4, 4)


def images(count: int, seed: int) -> ArrayDataset:
    pixels = np.random.default_rng(seed).integers(0, 256, (count, *SIZE, 1), np.uint8)
    return ArrayDataset("some", "train", pixels, np.arange(count) % 2, ())


def test_no_image_is_in_two_of_the_three_sets() -> None:
    """By content: repeats of test and calibration images are planted among the training images."""
    data, test = images(100, 0), images(20, 1)
    first = choose_images(data, test, SIZE, 10)
    data.images[50:60] = test.images[:10]
    plain = choose_images(data, test, SIZE, 30)
    others = np.setdiff1d(np.arange(100), plain)
    data.images[others[:5]] = data.images[plain[:5]]
    held = choose_images(data, test, SIZE, 20, without=plain)
    contents = [
        {image.tobytes() for image in part}
        for part in (test.images, data.images[plain], data.images[held])
    ]
    for i, one in enumerate(contents):
        assert not any(one & other for other in contents[i + 1 :])
    assert len(held) == len(set(held)) == 20
    again = choose_images(data, test, SIZE, 20, without=plain)
    assert (held == again).all()
    assert len(first) == 10


def test_too_few_are_an_error_that_names_the_option() -> None:
    data, test = images(20, 0), images(5, 1)
    calibrated = choose_images(data, test, SIZE, 15)
    with pytest.raises(
        WrongUse, match=r"5 images to hold out[^\n]*6 are needed[^\n]*\n.*--held-out"
    ):
        choose_images(data, test, SIZE, 6, without=calibrated)


def source(*outputs: Port) -> Source:
    def unused(_: Any) -> Any:
        raise AssertionError

    port = Port("x", (None, *SIZE, 1), "float32")
    shown = outputs or (Port("y", (None, 2), "float32"),)
    return Source("tiny", "keras", "", "", unused, unused, (port,), shown, None, (), "unit", ())


@pytest.fixture
def config(tmp_path: Path) -> ExportConfig:
    for seed, split in enumerate(("train", "test")):
        data = images(40, seed)
        write_photos(tmp_path / split, data.images[..., 0], data.labels)
    return ExportConfig(
        "tiny",
        "onnx",
        tmp_path / "out",
        precision="int8",
        data=f"folder:{tmp_path}",
        layout="nchw",
        held_out_images=9,
    )


def params(config: ExportConfig, data_hash: str | None = None) -> Params:
    from exporter.data import datasets

    data, test = (datasets.load(config.data or "", split, silent) for split in ("train", "test"))
    chosen = choose_images(data, test, SIZE, 8)
    hashed = hashlib.sha256(data.pixels(chosen, SIZE).tobytes()).hexdigest()
    return Params({}, "mse", 99.99, 8, "", data_hash or hashed, "")


def test_feeds_are_what_the_graph_takes(config: ExportConfig) -> None:
    held, warnings = hold_out(source(), config, params(config), silent)
    assert len(held) == 9
    assert warnings == []
    batches = [feeds["x"] for feeds in held.feeds()]
    np.testing.assert_allclose(
        np.concatenate(batches), held.pixels.transpose(0, 3, 1, 2) / 255, rtol=1e-6
    )
    assert len(held.first(4)) == 4


def test_what_something_was_chosen_on_is_not_held_out(config: ExportConfig) -> None:
    """Recovery may have read more images than the calibration took, the first of the choice."""
    plain, _ = hold_out(source(), config, params(config), silent)
    further, _ = hold_out(source(), config, params(config), silent, used=12)
    seen = {image.tobytes() for image in plain.pixels[:4]}
    assert not seen & {image.tobytes() for image in further.pixels}
    np.testing.assert_array_equal(further.pixels[:5], plain.pixels[4:])


@pytest.mark.parametrize(
    ("kind", "weights", "ours"),
    [
        ("zoo", "shipped", True),
        ("zoo", "random", True),
        ("zoo", "mine.keras", False),
        ("keras", "mine.keras", False),
    ],
)
def test_which_images_is_known_of_the_zoos_own_weights_alone(
    config: ExportConfig, kind: Any, weights: str, ours: bool
) -> None:
    one, unsaid = replace(source(), kind=kind, weights=weights), replace(config, data=None)
    assert training_data(one, config) == config.data
    if ours:
        assert training_data(one, unsaid) == "fashion-mnist"
    else:
        with pytest.raises(WrongUse, match="needs training images to be measured on"):
            training_data(one, unsaid)


def test_a_calibration_from_elsewhere_is_a_warning(config: ExportConfig) -> None:
    _, (warning,) = hold_out(source(), config, params(config, "other"), silent)
    assert "used other images" in warning


@pytest.mark.parametrize(
    ("outputs", "words"),
    [
        ((Port("y", (None, 1), "float32"),), "labels 0 to 1"),
        ((Port("y", (None, 2), "float32"), Port("z", (None, 2), "float32")), "not a classifier"),
        ((Port("y", (None, 4, 4, 2), "float32"),), "not a classifier"),
    ],
)
def test_only_classifiers_of_these_labels(
    config: ExportConfig, outputs: tuple[Port, ...], words: str
) -> None:
    with pytest.raises(WrongUse, match=words):
        hold_out(source(*outputs), config, params(config), silent)
