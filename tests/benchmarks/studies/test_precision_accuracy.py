"""The table on two variants and a few images of the shipped ResNet-18."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from benchmarks.studies import precision_accuracy
from exporter.errors import Missing

pytestmark = [pytest.mark.tf, pytest.mark.data]


def test_a_row_is_tested_in_pairs(tmp_path: Path) -> None:
    output = tmp_path / "int8.json"
    asked = [
        "resnet18",
        "--variant",
        "ort-7-mse-none",
        "--variant",
        "onnx-mse-fp16",
        "--images",
        "40",
        "--calibration-images",
        "16",
    ]
    done = CliRunner().invoke(precision_accuracy.main, [*asked, "-o", str(output)])
    assert done.exit_code == 0, done.output
    report = json.loads(output.read_text())
    half, row = report["results"]
    assert (half["layers_quantized"], half["layers_in_float"]) == (21, 0)
    assert (half["scheme"], half["rest"], half["simulated"]) == ("tensorrt", "fp16", True)
    shown = precision_accuracy.described(half)
    assert shown == ("INT8 tensorrt, FP16 around it (`onnx`, simulated)", "mse", "none")
    assert "Keras has" in done.stdout
    assert precision_accuracy.described(row)[0] == "INT8 cpu (`ort`, 7-bit weights)"
    assert (row["scheme"], row["calibrator"], row["simulated"]) == ("cpu", "mse", False)
    assert (row["reduce_range"], row["recovery"]) == (True, {})
    assert row["images"] == row["paired"]["images"] == report["keras"]["images"] == 40
    low, high = row["paired"]["interval_points"]
    assert low <= row["paired"]["change_points"] <= high
    assert row["paired"]["change_points"] == 100 * (row["top1"] - report["keras"]["top1"])
    assert [path.name for path in tmp_path.iterdir()] == ["int8.json"]


def test_fp8_is_measured_beside_int8(tmp_path: Path) -> None:
    output = tmp_path / "fp8.json"
    asked = ["resnet18", "--variants", "fp8", "--images", "20", "--calibration-images", "16"]
    asked += ["--variant", "onnx-mse-fp16", "--variant", "onnx-fp8-mse"]
    done = CliRunner().invoke(precision_accuracy.main, [*asked, "-o", str(output)])
    assert done.exit_code == 0, done.output
    integers, floats = json.loads(output.read_text())["results"]
    assert precision_accuracy.described(integers)[0].startswith("INT8 tensorrt, FP16 around it")
    assert precision_accuracy.described(floats) == (
        "FP8, FP16 around it (`onnx`, simulated)",
        "mse",
        "none",
    )
    assert (floats["layers_quantized"], floats["layers_in_float"]) == (20, 1)
    assert floats["simulated"] is True


def test_a_set_has_every_name_once() -> None:
    for group in precision_accuracy.SETS.values():
        names = [variant.name for variant in group]
        assert len(names) == len(set(names))


def test_what_would_saturate_is_left_out_or_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(precision_accuracy, "lacks_vnni", lambda: False)
    assert precision_accuracy.chosen((), said.append) == list(precision_accuracy.VARIANTS)
    monkeypatch.setattr(precision_accuracy, "lacks_vnni", lambda: True)
    here = precision_accuracy.chosen((), said.append)
    assert {variant.weight_bits for variant in here} == {None, 7}
    assert "left out: this CPU has no VNNI" in said[0]
    with pytest.raises(Missing, match="ort-8-mse"):
        precision_accuracy.chosen(("ort-8-mse",), said.append)
