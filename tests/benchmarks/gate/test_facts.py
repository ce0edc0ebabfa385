"""What the gate reads off INT8 graphs, beside the float graph and the ranges they came from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import numpy_helper

from benchmarks.drift.sketch import relative_change
from benchmarks.gate.facts import Facts, read_facts
from benchmarks.gate.figures import FIGURES
from benchmarks.gate.verdict import judge
from exporter.artifact import folder as artifact
from exporter.passes.insert_qdq import InsertQdq
from tests.exporter import sensitive

LAYERS = {"first", "ruined", "second", "head"}
TOLERANCES = {name: figure.default for name, figure in FIGURES.items()}


def facts_of(folder: Path, graph: onnx.ModelProto, target: str) -> Facts:
    folder.mkdir()
    onnx.save(graph, folder / "model.onnx")
    passport: dict[str, Any] = {
        "source": {"model": "net.keras", "sha256": "s"},
        "target": target,
        "precision": "fp32",
        "layout": "nchw",
        "graph": {"inputs": [], "outputs": []},
        "passes": {},
    }
    return read_facts(artifact.Artifact(folder, artifact.seal(folder, passport)))


@pytest.fixture(params=[("cpu", "ort"), ("tensorrt", "onnx")], ids=["cpu", "tensorrt"])
def graphs(request: pytest.FixtureRequest) -> tuple[onnx.ModelProto, onnx.ModelProto, str, Any]:
    """The float graph, the INT8 one, its target, and the ranges that were asked for."""
    scheme, target = request.param
    model = sensitive.network(loudest=1.0)
    ready = sensitive.trials(scheme, model)
    before = onnx.ModelProto.FromString(ir.to_proto(model).SerializeToString())
    InsertQdq(ready.scheme, ready.ranges)(model)
    return before, ir.to_proto(model), target, ready.ranges


def test_weights_are_seen_as_the_layer_sees_them_and_ranges_as_asked_for(
    graphs: Any, tmp_path: Path
) -> None:
    before, after, target, asked = graphs
    plain, quantised = (
        facts_of(tmp_path / name, graph, target) for name, graph in (("a", before), ("b", after))
    )
    assert set(plain.layers) == set(quantised.layers) == LAYERS
    for name in LAYERS:
        change = relative_change(plain.layers[name]["weight"], quantised.layers[name]["weight"])
        # A step is amax / 127 (63 for 7 bits), its error evenly spread: 1% of a normal's spread.
        assert 0 < change < 0.03, name
    bias = (facts.layers["head"]["bias"] for facts in (plain, quantised))
    assert relative_change(*bias) < 0.01
    assert plain.ranges == {}
    measured = set(quantised.ranges) & set(asked)  # the others have the range of one of these
    assert len(measured) >= len(LAYERS)
    for name in measured:
        low, high = quantised.ranges[name]
        step = (high - low) / 255
        assert low == pytest.approx(asked[name][0], abs=2 * step)
        assert high == pytest.approx(asked[name][1], abs=2 * step)


def test_onnxruntimes_fusions_are_counted(graphs: Any, tmp_path: Path) -> None:
    _, after, target, _ = graphs
    fused = facts_of(tmp_path / "b", after, target).fused
    if target == "onnx":
        assert fused is None  # a plain graph says nothing of who will run it
    else:
        assert fused is not None
        assert fused["QLinearConv"] == 3
        assert "Conv" not in fused


def test_a_scale_off_by_5_percent_is_found_at_its_tensor(graphs: Any, tmp_path: Path) -> None:
    _, after, target, _ = graphs
    before = facts_of(tmp_path / "b", after, target)
    quantize = [node for node in after.graph.node if node.op_type == "QuantizeLinear"]
    inputs = {tensor.name for tensor in after.graph.initializer}
    node = next(node for node in quantize if node.input[0] not in inputs)
    (scale,) = [one for one in after.graph.initializer if one.name == node.input[1]]
    value = (numpy_helper.to_array(scale) * 1.05).astype(np.float32)
    scale.CopyFrom(numpy_helper.from_array(value, scale.name))
    found = {
        one.figure: one
        for one in judge(before, facts_of(tmp_path / "c", after, target), TOLERANCES)
    }
    assert found["ranges"].verdict == "drifted"
    assert found["ranges"].detail.startswith(f"{node.input[0]}: ")
    assert found["ranges"].detail.endswith("(5.0%)")
    assert found["ops"].verdict == found["qdq"].verdict == "same"


def test_a_convolution_without_its_pair_is_named(graphs: Any, tmp_path: Path) -> None:
    _, after, target, _ = graphs
    before = facts_of(tmp_path / "b", after, target)
    weights = {tensor.name: tensor for tensor in after.graph.initializer}
    (conv,) = [node for node in after.graph.node if node.name == "second"]
    (dequantize,) = [node for node in after.graph.node if conv.input[0] in node.output]
    (quantize,) = [node for node in after.graph.node if dequantize.input[0] in node.output]
    assert quantize.input[0] not in weights
    for node in after.graph.node:
        for index, name in enumerate(node.input):
            if name == dequantize.output[0]:
                node.input[index] = quantize.input[0]
    after.graph.node.remove(dequantize)
    after.graph.node.remove(quantize)
    now = facts_of(tmp_path / "c", after, target)
    found = {one.figure: one for one in judge(before, now, TOLERANCES)}
    assert found["qdq"].verdict == "drifted"
    assert f"{quantize.input[0]} is quantized only in the baseline" in found["qdq"].detail
