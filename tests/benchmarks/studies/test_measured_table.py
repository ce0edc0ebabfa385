"""The table of latencies: how cells become it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner

from benchmarks import result_file
from benchmarks.latency import bench as latency
from benchmarks.latency.bench import Plan
from benchmarks.latency.result import Report
from benchmarks.studies import measured_table, peak_probe
from benchmarks.studies.measured_table import (
    ENGINES,
    count_multiply_adds,
    markdown,
    share_of_peak,
)
from exporter.artifact import folder as artifact
from exporter.machine import cpus
from tests.benchmarks.latency_jobs import row, tiny
from tests.exporter.engine_files import artefact

PEAKS = {
    "fp32": {"multiply_adds_per_s": 100e9, "probe": "products, ort"},
    "int8": {"multiply_adds_per_s": 300e9, "probe": "convolutions, openvino"},
}


def cell(**changes: Any) -> dict[str, Any]:
    engines = {
        "keras": {"p50_ms": 8.0, "speedup": None},
        **{engine.name: {"p50_ms": 2.0, "speedup": [4.0, 3.9, 4.1]} for engine in ENGINES},
    }
    return {
        "network": "resnet18",
        "batch": 1,
        "trained": True,
        "multiply_adds": 300_000_000,
        "engines": engines,
        "unstable": [],
        **changes,
    }


def report(*cells: dict[str, Any]) -> dict[str, Any]:
    return {
        "cells": list(cells),
        "peaks": PEAKS,
        "threads": 2,
        "file": "latency_vnni.json",
        "machine": {"cpu": "A CPU", "instruction_sets": "avx2 avx512_vnni"},
        "date": "2026-11-23T12:00:00+00:00",
        "command": "python -m benchmarks.studies.measured_table",
    }


def test_share_of_the_peak_by_hand() -> None:
    # 0.3 billion in 2 ms are 150 billion a second: half of INT8's peak.
    assert share_of_peak(cell(), "ort-int8", PEAKS) == pytest.approx(0.5)
    assert share_of_peak(cell(batch=2), "keras", PEAKS) == pytest.approx(0.75)


def test_a_table_and_what_can_not_be_trusted() -> None:
    failed = cell(network="resnet50", batch=32, trained=False, unstable=["hot"])
    failed["engines"]["keras"] = {"p50_ms": None, "speedup": None}
    text = markdown(report(cell(), failed))
    assert "| resnet18 | 1 | 8.00, 38% | 2.00, 4.0x [3.9, 4.1], 150% |" in text
    assert "| resnet50 (random weights) | 32 | failed | 2.00" in text
    assert "Peak in INT8: 300 billion multiply-adds a second, by a probe: convolutions" in text
    assert "A CPU with avx2, avx512_vnni, 2026-11-23:" in text
    assert "reasons: `benchmarks/results/latency_vnni.json`" in text
    assert "not quiet: resnet50 at 32." in text
    assert "not quiet: none." in markdown(report(cell()))
    assert "not quiet: all of them." in markdown(report(failed))


def test_a_machine_says_what_decides_over_int8(monkeypatch: pytest.MonkeyPatch) -> None:
    known = {"avx2": True, "avx512_vnni": True, "amx_int8": False}
    monkeypatch.setattr(cpus, "this_cpu", lambda: cpus.Cpu("A CPU", 2, known, ()))
    assert result_file.place()["instruction_sets"] == "avx2 avx512_vnni"
    assert result_file.processor(result_file.place()) == "A CPU with avx2, avx512_vnni"
    monkeypatch.setattr(cpus, "this_cpu", lambda: cpus.Cpu("A CPU", 2, None, ()))
    assert result_file.place()["instruction_sets"] is None
    assert result_file.processor({"cpu": "A CPU"}) == "A CPU"  # a file from before


def test_multiply_adds_are_counted_from_the_graph(tmp_path: Path) -> None:
    model = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]> '
        "net (float[N,3,8,8] x) => (float[N,5] y) "
        "{"
        " a = Conv <pads = [1,1,1,1], strides = [2,2]> (x, w)"
        " b = Conv <group = 2> (a, v)"
        " c = ReduceMean <axes = [2,3], keepdims = 0> (b)"
        " y = MatMul (c, d) }"
    )
    for name, shape in (("w", (4, 3, 3, 3)), ("v", (4, 2, 1, 1)), ("d", (4, 5))):
        weight = onnx.numpy_helper.from_array(np.ones(shape, np.float32), name)
        model.graph.initializer.append(weight)
    one = artifact.read(artefact(tmp_path / "a", None, {"model.onnx": model.SerializeToString()}))
    assert count_multiply_adds(one) == 16 * 4 * 3 * 9 + 16 * 4 * 2 + 4 * 5


def test_finished_cells_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    work, output = tmp_path / "work", tmp_path / "latency.json"
    for engine in ENGINES:
        (work / "resnet18").mkdir(parents=True, exist_ok=True)
        tiny(work / "resnet18" / engine.name, engine.precision, engine.target)
    timed = []

    def bench(artifacts: Any, plan: Plan, against: Any, **_: Any) -> Report:
        timed.append(plan.batches)
        rows = (
            row("keras", [8.0] * 5, plan.batches[0]),
            *(row(str(one.path), [2.0] * 5, plan.batches[0]) for one in artifacts),
        )
        return Report("sweep", "keras", rows, (), (), {}, {}, {}, "2026-11-23")

    monkeypatch.setattr(latency, "bench", bench)
    monkeypatch.setattr(measured_table, "count_multiply_adds", lambda _: 1_000_000)
    monkeypatch.setattr(peak_probe, "probe_all", lambda *_: PEAKS)
    given = ["--networks", "resnet18", "--work", str(work), "-o", str(output)]
    for _ in range(2):
        result = CliRunner().invoke(measured_table.main, given)
        assert result.exit_code == 0, result.output
    assert timed == [(1,), (32,)], "the second run had nothing left to do"
    assert [c["batch"] for c in json.loads(output.read_text())["cells"]] == [1, 32]
    more = ["--networks", "resnet18,resnet34", "--kept", "--work", str(work), "-o", str(output)]
    assert CliRunner().invoke(measured_table.main, more).exit_code == 0
    assert len(timed) == 2
    assert [c["network"] for c in json.loads(output.read_text())["cells"]] == ["resnet18"] * 2


def test_no_cell_no_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peak_probe, "probe_all", lambda *_: PEAKS)
    output = tmp_path / "latency.json"
    given = ["--networks", "resnet34", "--kept", "--work", str(tmp_path), "-o", str(output)]
    result = CliRunner().invoke(measured_table.main, given)
    assert result.exit_code == 1
    assert "holds no finished cell of resnet34" in str(result.exception)
    assert not output.exists()
