"""Any Keras network to ONNX: compared with Keras by onnxruntime, before and after the passes."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from exporter.errors import ConversionError
from exporter.network import sources
from tests.exporter import networks
from tests.exporter.passes.graphs import count_batch_norms

pytestmark = pytest.mark.tf

# Float32 rounding over a few layers; a wrong axis, scale or epsilon is off by far more.
TOLERANCE = 1e-5


def run(model: ir.Model, feeds: dict[str, Any]) -> list[Any]:
    import onnxruntime

    proto = ir.to_proto(model)
    onnx.checker.check_model(proto, full_check=True)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return list(onnxruntime.InferenceSession(proto.SerializeToString(), options).run(None, feeds))


def assert_same(source: sources.Source, model: ir.Model, batch: int = 3) -> None:
    rng = np.random.default_rng(1)
    feeds = {
        port.name: rng.random((batch, *(size or 1 for size in port.shape[1:])), np.float32) * 255
        for port in source.inputs
    }
    expected = source.call(tuple(feeds.values()))
    got = run(model, feeds)
    assert len(expected) == len(got)
    for wanted, found in zip(expected, got, strict=True):
        reference = np.asarray(wanted)
        assert np.abs(found - reference).max() <= TOLERANCE * np.abs(reference).max()


@pytest.fixture(params=["model.keras", "saved_model"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Where a network is saved, in both forms."""
    return tmp_path / str(request.param)


def test_every_kind_of_layer_converts_and_folds(keras: ModuleType, place: Path) -> None:
    from exporter import pipeline
    from exporter.network import frontend

    network, foldable = networks.many_layers(keras)
    source = sources.load(networks.save(network, place))
    model = frontend.to_onnx(source)
    assert_same(source, model)
    reports = {report.name: report for report in pipeline.run_passes(model, "nhwc")}
    assert_same(source, model)
    assert len(reports["fold_batch_norm"].applied) == foldable
    assert count_batch_norms(model) == 0
    groups = {n.attributes.get_int("group", 1) for n in model.graph if n.op_type == "Conv"}
    assert 4 in groups, "the grouped convolution must stay one"


def test_a_network_over_time_becomes_a_flat_image(keras: ModuleType, place: Path) -> None:
    """Its batch norms fold, which they can't where a Squeeze stands before them."""
    from exporter import pipeline
    from exporter.network import frontend

    source = sources.load(networks.save(networks.signal(keras), place))
    model = frontend.to_onnx(source)
    assert_same(source, model)
    reports = {report.name: report for report in pipeline.run_passes(model, "nhwc")}
    assert_same(source, model)
    assert len(reports["fold_batch_norm"].applied) == 3
    assert count_batch_norms(model) == 0
    ops = [node.op_type for node in model.graph]
    assert ops.count("Squeeze") == 0
    assert ops.count("Unsqueeze") == 1, "at the input"
    assert ops.count("Transpose") <= 1


def test_weights_and_batch_norms_survive_conversion(keras: ModuleType, place: Path) -> None:
    from exporter.network import frontend

    source = sources.load(networks.save(networks.plain(keras), place))
    model = frontend.to_onnx(source)
    # Nothing may be merged before our pass counts it: tf2onnx and grappler would.
    ops = [node.op_type for node in model.graph]
    assert ops.count("Mul") >= 2
    assert ops.count("Sqrt") == 1


def test_a_nested_model_converts(keras: ModuleType, place: Path) -> None:
    from exporter import pipeline
    from exporter.network import frontend

    source = sources.load(networks.save(networks.nested(keras), place))
    model = frontend.to_onnx(source)
    pipeline.run_passes(model, "nhwc")
    assert_same(source, model)


def test_a_lone_port_is_named_by_the_contract(keras: ModuleType, place: Path) -> None:
    from exporter.network import frontend

    source = sources.load(networks.save(networks.nested(keras), place))
    model = frontend.to_onnx(source)
    assert [value.name for value in model.graph.inputs] == ["input"]
    assert [value.name for value in model.graph.outputs] == ["logits"]
    assert model.opset_imports[""] >= 17


def test_several_ports_keep_their_names(keras: ModuleType, tmp_path: Path) -> None:
    from exporter import pipeline
    from exporter.network import frontend

    source = sources.load(networks.save(networks.two_ports(keras), tmp_path / "two.keras"))
    model = frontend.to_onnx(source)
    pipeline.run_passes(model, "nhwc")
    assert [value.name for value in model.graph.inputs] == ["left", "right"]
    assert [value.name for value in model.graph.outputs] == ["age", "kind"]
    assert_same(source, model)


def test_batch_is_open_or_fixed(keras: ModuleType, place: Path) -> None:
    from exporter import pipeline
    from exporter.network import frontend

    source = sources.load(networks.save(networks.plain(keras), place))
    free, fixed = frontend.to_onnx(source), frontend.to_onnx(source, batch=2)
    pipeline.run_passes(fixed, "nhwc")
    assert [str(value.shape) for value in free.graph.inputs] == ["[batch,16,16,1]"]
    assert [str(value.shape) for value in fixed.graph.inputs] == ["[2,16,16,1]"]
    assert [str(value.shape) for value in fixed.graph.outputs] == ["[2,3]"]
    assert_same(source, free, batch=5)
    assert_same(source, fixed, batch=2)


def test_nchw_needs_no_transpose(keras: ModuleType, place: Path) -> None:
    from exporter import pipeline
    from exporter.network import frontend

    source = sources.load(networks.save(networks.plain(keras, channels=3), place))
    model = frontend.to_onnx(source)
    pipeline.run_passes(model, "nchw")
    assert "Transpose" not in [node.op_type for node in model.graph]
    x = np.random.default_rng(0).random((2, 16, 16, 3), np.float32)
    expected = np.asarray(source.call((x,))[0])
    (got,) = run(model, {"input": np.ascontiguousarray(x.transpose(0, 3, 1, 2))})
    assert np.abs(got - expected).max() <= TOLERANCE * np.abs(expected).max()


def test_nodes_know_their_keras_layer(keras: ModuleType, tmp_path: Path) -> None:
    from exporter import pipeline
    from exporter.network import frontend

    source = sources.load(networks.save(networks.plain(keras), tmp_path / "plain.keras"))
    model = frontend.to_onnx(source)
    pipeline.run_passes(model, "nhwc")
    layers = {n.op_type: n.metadata_props.get(frontend.LAYER_KEY) for n in model.graph}
    assert layers["Conv"] == "conv"
    assert layers["Relu"] == "relu"
    assert layers["MatMul"] == "logits"


def test_an_op_that_does_not_convert_names_its_layer(keras: ModuleType, place: Path) -> None:
    from exporter.network import frontend

    source = sources.load(networks.save(networks.with_cholesky(keras), place))
    with pytest.raises(ConversionError, match=r"Cholesky in layer '.*[cC]holesky(_\d+)?'"):
        frontend.to_onnx(source)
