"""The whole way to TensorRT-RTX plans, for the shipped ResNet-18."""

from __future__ import annotations

from pathlib import Path

import pytest

from exporter import pipeline
from exporter.config import Batch, Precision

pytest.importorskip("tensorrt_rtx", reason="pip install 'exporter[rtx]'")


@pytest.mark.tf
@pytest.mark.data
@pytest.mark.slow
def test_an_int8_plan_is_a_third_of_fp32s_at_most(tmp_path: Path) -> None:
    """Weights are nearly all of it: a quarter, and some for what has no INT8 weights."""
    plan_bytes = {}
    precisions: tuple[Precision, ...] = ("fp32", "int8")
    for precision in precisions:
        config = pipeline.ExportConfig(
            "resnet18",
            target="trt-rtx",
            output=tmp_path / precision,
            precision=precision,
            batch=Batch(1, 8, 16),
            check_images=4,
            calibrator="minmax",
            calibration_images=32,
        )
        artifact = pipeline.export(config)
        section = artifact.passport["trt-rtx"]
        assert section["compiled"] is True
        # FP16 is around INT8, and its scales are FP16 too; the builder tells that it widens them.
        unexpected = [text for text in section["warnings"] if "scales to fp32" not in text]
        assert unexpected == []
        assert artifact.passport["engine"]["profile"]["input"]["max"] == [16, 96, 96, 1]
        plan_bytes[precision] = artifact.file("engine.plan").stat().st_size
    assert artifact.passport["int8"]["scheme"] == "tensorrt"
    assert 3 * plan_bytes["int8"] <= plan_bytes["fp32"], plan_bytes
