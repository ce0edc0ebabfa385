"""What onnxruntime makes of our graphs, read from the graph that it optimised."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir
import pytest

from exporter import pipeline
from exporter.artifact import folder as artifact
from exporter.config import ExportConfig
from exporter.errors import Missing
from exporter.machine import cpus
from exporter.passes.insert_qdq import InsertQdq
from exporter.targets import ort
from tests.exporter import sensitive


@pytest.fixture
def optimised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Have the runner's session write down its graph; count the ops in it."""
    real = ort.ort.InferenceSession
    path = tmp_path / "optimised.onnx"

    def spy(model: bytes, options: Any, **more: Any) -> Any:
        options.optimized_model_filepath = str(path)
        return real(model, options, **more)

    def ops(graph: bytes) -> Counter[str]:
        monkeypatch.setattr(ort.ort, "InferenceSession", spy)
        with ort.OrtRunner(graph, threads=1):
            return Counter(node.op_type for node in onnx.load(path).graph.node)

    return ops


def quantized(keep: tuple[str, ...], *, bare: bool = False) -> bytes:
    model = sensitive.network()
    if bare:  # nothing between the convolution and its Q: where onnxruntime quantised it again
        (relu,) = (node for node in model.graph if node.name == "ruined_relu")
        ir.convenience.replace_all_uses_with(relu.outputs[0], relu.inputs[0])
        model.graph.remove(relu, safe=True)
    ready = sensitive.trials("cpu", model)
    InsertQdq(ready.scheme, ready.ranges, keep=keep)(model)
    return ir.to_proto(model).SerializeToString()


@pytest.mark.parametrize("bare", [False, True])
def test_a_convolution_left_in_float_stays_there(optimised: Any, bare: bool) -> None:
    found = optimised(quantized(("ruined",), bare=bare))
    assert found["QLinearConv"] == 2
    assert found["Conv"] + found["FusedConv"] == 1


def test_onnxruntime_would_quantise_it_otherwise(
    optimised: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Why `NOT_THESE` is there; a release that fails this may not need it any more."""
    monkeypatch.setattr(ort, "NOT_THESE", [])
    assert optimised(quantized(("ruined",), bare=True))["QLinearConv"] == 3


@pytest.mark.parametrize("bare", [False, True])
def test_a_whole_int8_graph_fuses_wholly(optimised: Any, bare: bool) -> None:
    found = optimised(quantized((), bare=bare))
    assert (found["QLinearConv"], found["QGemm"]) == (3, 1)
    assert not {"Conv", "FusedConv", "Gemm", "Relu", "DequantizeLinear"} & set(found), found
    assert found["QuantizeLinear"] == 1, "the input's"


@pytest.mark.tf
@pytest.mark.data
@pytest.mark.parametrize(("name", "convolutions"), [("resnet18", 20), ("resnext26_16x4d", 29)])
def test_the_shipped_networks_run_in_integers_throughout(
    optimised: Any, tmp_path: Path, name: str, convolutions: int
) -> None:
    """By hand: a stem; 8 blocks of 2 or 3 convolutions; a shortcut's where the shape changes."""
    config = ExportConfig(
        name, "onnx", tmp_path / "int8", precision="int8", scheme="cpu", calibration_images=16
    )
    found = optimised(pipeline.export(config).file("model.onnx").read_bytes())
    assert found["QLinearConv"] == convolutions
    assert (found["QLinearAdd"], found["QGemm"]) == (8, 1)
    assert found["QuantizeLinear"] == 1, "the input's"
    assert not {"Conv", "FusedConv", "Gemm", "Relu", "Add", "DequantizeLinear"} & set(found), found


def test_weights_of_8_bits_are_refused_where_their_sums_saturate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cpus, "lacks_vnni", lambda: True)
    int8 = {"scheme": "cpu", "reduce_range": False}
    with pytest.raises(Missing, match="has 8-bit weights, but this CPU has no VNNI"):
        ort.open(artifact.Artifact(tmp_path, {"target": "ort", "int8": int8}))
