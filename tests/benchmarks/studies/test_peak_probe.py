"""The probe of the machine's peak: its graphs and its counting; never its figures."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator

from benchmarks.latency import worker
from benchmarks.studies import peak_probe
from benchmarks.studies.int8_cells import optimized_graph
from benchmarks.studies.peak_probe import SHAPES, Shape, fastest, graph, probe_all
from exporter.errors import ExporterError

SMALL = Shape("Conv", (1, 4, 5, 5), (4, 4, 3, 3), 2)


def test_multiply_adds_by_hand() -> None:
    assert SMALL.multiply_adds == 2 * 25 * 4 * 4 * 9
    assert Shape("MatMul", (8, 6), (6, 6), 3).multiply_adds == 3 * 8 * 6 * 6


@pytest.mark.parametrize("shape", [SMALL, Shape("MatMul", (6, 6), (6, 6), 2)])
def test_both_graphs_are_chains_of_the_layer(shape: Shape) -> None:
    data = {"x": np.random.default_rng(0).random(shape.data, np.float32)}
    full = graph(shape, "fp32")
    assert [node.op_type for node in full.graph.node] == [shape.op] * shape.layers + ["Identity"]
    (found,) = ReferenceEvaluator(full).run(None, data)
    assert found.shape == shape.data
    typed = graph(shape, "int8")
    ops = [node.op_type for node in typed.graph.node]
    assert ops.count("QuantizeLinear") == shape.layers + 1
    (stored,) = (w for w in typed.graph.initializer if w.name == "w")
    assert stored.data_type == onnx.TensorProto.INT8


@pytest.mark.parametrize(
    ("shape", "fused"),
    [(SMALL, "QLinearConv"), (Shape("MatMul", (6, 6), (6, 6), 2), "QLinearMatMul")],
)
def test_onnxruntime_multiplies_integers_in_the_int8_chain(
    shape: Shape, fused: str, tmp_path: Path
) -> None:
    onnx.save(graph(shape, "int8"), tmp_path / "chain.onnx")
    ops = Counter(node.op_type for node in optimized_graph(tmp_path / "chain.onnx").node)
    assert (ops[fused], ops[shape.op]) == (shape.layers, 0)


def test_the_fastest_call_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    # The end is set at 0; then each turn looks at the clock three times.
    clock = iter([0.0, *(0.1, 0.1, 0.5), *(0.6, 0.6, 0.7), *(0.8, 0.8, 1.4), 9.0])
    monkeypatch.setattr(peak_probe.time, "perf_counter", lambda: next(clock))
    assert fastest(lambda: None, 5.0) == pytest.approx(0.1)


def test_the_best_probe_is_named_and_one_that_fails_left_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def ask(function: str, line: str, *_: object) -> worker.Answer:
        if "openvino" in line:
            return {"error": "OpenVINO is not installed"}
        return {"multiply_adds_per_s": 5.0 if "int8" in line else 2.0}

    monkeypatch.setattr(worker, "ask", ask)
    found = probe_all(1, ())
    assert found["fp32"]["multiply_adds_per_s"] == 2.0
    assert found["int8"]["probe"] in {f"{name}, ort" for name in SHAPES}
    monkeypatch.setattr(worker, "ask", lambda *_: {"error": "no"})
    with pytest.raises(ExporterError, match="no fp32 probe"):
        probe_all(1, ())


def test_the_highest_peak_of_all_runs_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def probed(rate: float) -> peak_probe.Peaks:
        found = {name: {"multiply_adds_per_s": rate} for name in ("fp32", "int8")}
        monkeypatch.setattr(peak_probe, "probe_all", lambda *_: found)
        return found

    file = tmp_path / "work" / "peaks.json"
    low = probed(90e9)
    assert peak_probe.peaks(1, file) == low
    high = probed(100e9)
    assert peak_probe.peaks(1, file) == high
    probed(90e9)
    assert peak_probe.peaks(1, file) == high


@pytest.mark.parametrize("engine", peak_probe.ENGINES)
def test_a_probe_runs_in_each_engine(engine: str) -> None:
    pytest.importorskip("onnxruntime" if engine == "ort" else engine, reason="not installed")
    found = peak_probe.measure(engine, "int8", "matrix products of 1024", 1, (), 0.01)
    assert found["multiply_adds_per_s"] > 1e8
