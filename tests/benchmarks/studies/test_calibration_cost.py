"""The calibration-cost benchmark on a toy network; its timings are no test's business."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner

from benchmarks.studies import calibration_cost
from benchmarks.studies.calibration_cost import batches, can_hold, measure, measure_apart, summarize

pytest.importorskip("onnxruntime")
IMAGES = np.random.default_rng(0).normal(size=(40, 6, 6, 1)).astype(np.float32)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """What ``prepare`` writes, for a network of one convolution."""
    model = onnx.parser.parse_model(
        """
        <ir_version: 10, opset_import: ["" : 18]>
        toy (float[N, 6, 6, 1] image) => (float[N, 2, 6, 6] out)
        <float[2, 1, 1, 1] weight = {1, -1}>
        {
            nchw = Transpose <perm = [0, 3, 1, 2]> (image)
            convolved = Conv (nchw, weight)
            out = Relu (convolved)
        }
        """
    )
    onnx.save(model, tmp_path / "model.onnx")
    IMAGES.tofile(tmp_path / "images.f32")
    about = {"input": "image", "shape": [6, 6, 1], "images": 40, "tensors": ["image", "out"]}
    (tmp_path / "about.json").write_text(json.dumps(about))
    return tmp_path


def test_batches_are_the_images(folder: Path) -> None:
    found = np.concatenate([feeds["image"] for feeds in batches(folder, 37)])
    np.testing.assert_array_equal(found, IMAGES[:37])
    with pytest.raises(ValueError, match="40 images are prepared, not 41"):
        next(batches(folder, 41))


@pytest.mark.parametrize("tool", calibration_cost.TOOLS)
def test_every_tool_runs(folder: Path, tool: str) -> None:
    sample = measure(tool, str(folder), 32)
    assert sample["images_per_s"] == pytest.approx(32 / sample["seconds"])
    assert 10 < sample["peak_rss_mb"] < 100_000, "a Python with numpy is tens of megabytes"


def test_a_fresh_process_measures(folder: Path) -> None:
    sample = measure_apart("plain", folder, 20)
    assert (sample["tool"], sample["images"]) == ("plain", 20)
    assert sample["images_per_s"] > 0


def test_a_round_measures_all_and_onnxruntime_gets_what_memory_holds(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def measured(tool: str, folder: Path, images: int) -> dict[str, Any]:
        rate = {"plain": 100.0, "ours": 70.0, "onnxruntime": 10.0}[tool]
        peak = 100.0 + 2 * images if tool == "onnxruntime" else 200.0 + images / 100
        return {"tool": tool, "images": images, "images_per_s": rate, "peak_rss_mb": peak}

    monkeypatch.setattr(calibration_cost, "measure_apart", measured)
    monkeypatch.setattr(calibration_cost, "free_mb", lambda: 1200.0)
    samples = calibration_cost.run(tmp_path, 50, 1000, 2, 0, lambda line: None)
    turns = [(s["tool"], s["images"]) for s in samples]
    assert sorted(turns[:3]) == [("ours", 50), ("ours", 1000), ("plain", 1000)]
    assert turns[6:] == [("onnxruntime", 16), ("onnxruntime", 64), ("onnxruntime", 288)]
    summary = summarize(samples, 50, 1000)
    assert summary["throughput_ours_to_plain"] == 0.7
    assert summary["peak_memory_many_to_few"] == 210.0 / 200.5
    assert summary["throughput_ours_to_onnxruntime"] == 7
    assert summary["onnxruntime_held_images"] == 288


def test_can_hold() -> None:
    assert can_hold(2.0, 1000.0, 400) == 400
    assert can_hold(2.0, 1.0, 400) == 16
    assert can_hold(0.0, 1000.0, 400) == 400


def test_few_must_be_fewer() -> None:
    result = CliRunner().invoke(calibration_cost.main, ["--images", "20", "--few", "20"])
    assert result.exit_code == 2
    assert "--few 20 must be less" in result.output
