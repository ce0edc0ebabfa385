"""The recovery benchmark's figures, by hand; and that each row is of what it says."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest

from benchmarks.studies.recovery import score, table, variants
from calibration.sensitivity import noise_ratio, sqnr_db
from exporter.config import RecoveryName


def test_sqnr_is_ten_decibels_a_factor_of_ten() -> None:
    signal = np.array([[3.0, 4.0]], np.float32)  # energy 25
    assert sqnr_db(noise_ratio(signal, signal + np.float32([[0.5, 0]]))) == pytest.approx(20)
    assert sqnr_db(noise_ratio(signal, signal + np.float32([[5, 0]]))) == pytest.approx(0)
    assert sqnr_db(noise_ratio(signal, signal)) == float("inf")


def test_score_counts() -> None:
    reference = np.float32([[1, 0], [0, 1], [1, 0]])
    got = np.float32([[1, 0], [1, 0], [0, 1]])
    row = score(reference, got, np.array([0, 0, 0]))
    assert (row["images"], row["correct"], row["label_flips"]) == (3, 2, 2)
    assert row["mean_squared_error"] == pytest.approx(4 / 6)


def test_variants_are_none_each_and_all() -> None:
    names = get_args(RecoveryName)
    assert variants() == [(), *((name,) for name in names), names]


def test_table_has_a_line_for_each_row() -> None:
    figures = score(np.eye(2, dtype=np.float32), np.eye(2, dtype=np.float32) * 0.9, np.arange(2))
    rows = [
        {"scheme": "cpu", "simulated": False, "recovery": {}, **figures},
        {"scheme": "tensorrt", "simulated": True, "recovery": {"bias": 20}, **figures},
    ]
    shown = table(rows, figures)
    assert len(shown) == 3
    assert shown[2][0] == "tensorrt (simulated)"
    assert [row[1] for row in shown[1:]] == ["none", "bias (20)"]
