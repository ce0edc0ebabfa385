"""One export's request: groups of options, and the flat form that means the same."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, replace
from pathlib import Path
from typing import Any, get_args

import pytest

from calibration.observers import CALIBRATORS
from exporter.config import BuildOptions, Calibration, Calibrator, ExportConfig, Int8
from exporter.errors import WrongUse

INT8: dict[str, Any] = {
    "model": "resnet18",
    "target": "ort",
    "output": Path("out"),
    "precision": "int8",
}
FLAT: dict[str, Any] = {
    "calibrator": "minmax",
    "calibration_images": 64,
    "scheme": "cpu",
    "weight_bits": 7,
    "recovery": ("bias",),
    "max_drop": 0.2,
    "held_out_images": 300,
    "rest": "fp32",
    "opt_level": 5,
}
GROUPED: dict[str, Any] = {
    "calibration": Calibration("minmax", 64),
    "int8": Int8("cpu", 7, ("bias",), 0.2, 300, "fp32"),
    "build": BuildOptions(opt_level=5),
}


def test_flat_options_mean_the_same_as_their_groups() -> None:
    flat, grouped = ExportConfig(**INT8, **FLAT), ExportConfig(**INT8, **GROUPED)
    assert flat == grouped
    assert {name: getattr(grouped, name) for name in FLAT} == FLAT


def test_a_path_as_calibration_is_its_file() -> None:
    given = ExportConfig(**INT8, calibration=Path("c.json"), calibrator="mse")
    assert given.calibration == Calibration("mse", file=Path("c.json"))


def test_a_flat_option_changes_only_its_field_of_a_group() -> None:
    given = ExportConfig(**INT8, int8=Int8(weight_bits=7, held_out_images=9), max_drop=1.0)
    assert given.int8 == Int8(weight_bits=7, held_out_images=9, max_drop=1.0)
    assert replace(given, weight_bits=8).int8 == replace(given.int8, weight_bits=8)


def test_a_request_can_not_be_changed_or_misspelled() -> None:
    given = ExportConfig(**INT8)
    with pytest.raises(FrozenInstanceError):
        given.int8.max_drop = 1.0  # type: ignore[misc]
    with pytest.raises(TypeError, match="max_dropp"):
        ExportConfig(**INT8, max_dropp=1.0)
    with pytest.raises(AttributeError, match="max_dropp"):
        given.max_dropp  # noqa: B018


def test_every_calibrator_can_be_asked_for() -> None:
    assert get_args(Calibrator) == tuple(CALIBRATORS)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"calibration_images": 0}, "calibration-images must be auto or at least 1, not 0"),
        ({"calibration_images": "all"}, "calibration-images must be auto"),
        ({"held_out_images": 0}, "held-out-images must be at least 1"),
        ({"max_drop": float("nan")}, "max-drop is points of top-1, 0 to 100, not nan"),
        ({"weight_bits": 6}, "weight-bits must be 7 or 8, not 6"),
        ({"scheme": "gpu"}, "unknown scheme 'gpu'"),
        ({"scheme": "fp8"}, "--scheme fp8 is for FP8, and --precision is int8"),
        ({"opt_level": 6}, "opt-level must be 0 to 5, not 6"),
        ({"precision": "fp32", "max_drop": 1.0}, "--max-drop is for INT8 and FP8"),
        ({"precision": "fp32", "weight_bits": 8}, "--weight-bits is for INT8"),
        ({"io": "fp16", "rest": "fp32"}, "--io fp16 and --rest fp32 contradict each other"),
    ],
)
def test_a_value_that_can_not_be_is_refused_by_name(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(WrongUse, match=message):
        ExportConfig(**{**INT8, **wrong})
