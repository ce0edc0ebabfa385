"""The INT8 table on one variant and a few images of the shipped ResNet-18."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from benchmarks import int8_accuracy

pytestmark = [pytest.mark.tf, pytest.mark.data]


def test_a_row_is_tested_in_pairs(tmp_path: Path) -> None:
    output = tmp_path / "int8.json"
    asked = [
        "resnet18",
        "--variant",
        "ort-mse-none",
        "--images",
        "40",
        "--calibration-images",
        "16",
    ]
    done = CliRunner().invoke(int8_accuracy.main, [*asked, "-o", str(output)])
    assert done.exit_code == 0, done.output
    report = json.loads(output.read_text())
    (row,) = report["results"]
    assert (row["scheme"], row["calibrator"], row["simulated"]) == ("cpu", "mse", False)
    assert row["recovery"] == {}
    assert row["images"] == row["paired"]["images"] == report["keras"]["images"] == 40
    low, high = row["paired"]["interval_points"]
    assert low <= row["paired"]["change_points"] <= high
    assert row["paired"]["change_points"] == 100 * (row["top1"] - report["keras"]["top1"])
    assert [path.name for path in tmp_path.iterdir()] == ["int8.json"]
