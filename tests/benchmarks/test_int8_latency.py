"""The latency benchmark's bookkeeping; its timings are no test's business."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner

from benchmarks import int8_latency
from benchmarks.int8_latency import ENGINES, OURS, run, summarize
from benchmarks.latency_worker import MIN_RUNS, Block, time_apart


def test_worker_times_a_graph_in_its_own_process(tmp_path: Path) -> None:
    model = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]> '
        "net (float[N,4,4,1] x) => (float[N,4,4,1] y) { y = Relu (x) }"
    )
    onnx.save(model, tmp_path / "relu.onnx")
    sample = time_apart(Block(tmp_path / "relu.onnx", batch=3, threads=1, seconds=0.01))
    assert sample["runs"] >= MIN_RUNS
    assert 0 < sample["median_ms"] <= sample["p99_ms"]
    with pytest.raises(RuntimeError, match=r"gone\.onnx"):
        time_apart(Block(tmp_path / "gone.onnx", batch=1, threads=1, seconds=0.01))


def test_rounds_are_whole_and_their_order_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(int8_latency, "time_apart", lambda block: {"median_ms": 1.0})
    blocks = {engine: Block(Path(engine), 1, 2, 0.1) for engine in ENGINES}
    samples = run(blocks, 6, 0, lambda line: None)
    rounds = [[s["engine"] for s in samples[i : i + 3]] for i in range(0, 18, 3)]
    assert all(sorted(each) == sorted(ENGINES) for each in rounds)
    assert len({tuple(each) for each in rounds}) > 1


def test_summary_by_hand() -> None:
    samples = [
        {"round": r, "engine": e, "median_ms": ms * (1 + r), "load_average_1min": 0.1 * r}
        for r in range(5)
        for e, ms in (("fp32", 8.0), (OURS, 2.0), ("quantize_static", 3.0))
    ]
    found = summarize(samples[::-1])
    assert found["median_ms"] == {"fp32": 24.0, OURS: 6.0, "quantize_static": 9.0}
    # What slows a whole round cancels, so the interval has no width.
    over = found["speedup_of_ours_over"]
    assert over["fp32"]["interval_95"] == pytest.approx([4, 4])
    assert over["quantize_static"]["ratio"] == pytest.approx(1.5)
    assert found["largest_load_average_1min"] == pytest.approx(0.4)
    assert np.isfinite(over["fp32"]["ratio"])


def test_graphs_that_are_not_there_are_named(tmp_path: Path) -> None:
    result = CliRunner().invoke(int8_latency.main, ["--work", str(tmp_path)])
    assert result.exit_code == 1
    assert "int8_comparison" in result.output
    assert "cpu-quantize_static.onnx" in result.output
