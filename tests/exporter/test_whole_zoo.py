"""Every model of the zoo is the same network as Keras; one of each kind, close in FP16 and INT8.

Each is converted once, which is most of the time, and all tests of it run before the next.
``python -m benchmarks.studies.rtx_builds`` does FP16 and INT8 of the others, with real builds.
"""

from __future__ import annotations

import gc
import importlib.util
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest

from calibration.tap import tapped
from exporter import pipeline
from exporter.artifact import serialize
from exporter.models import zoo
from exporter.network import sources
from exporter.passes import PassReport, schemes
from exporter.passes.dense_to_gemm import DenseToGemm
from exporter.passes.insert_qdq import InsertQdq, tensors_to_calibrate
from exporter.passes.lint_qdq import lint_qdq
from exporter.passes.mean_to_pool import MeanToPool
from exporter.passes.to_fp16 import tensors_to_measure
from exporter.precision.half import Measured, compare_simulated, to_half
from exporter.proof import prove_equal
from tests.exporter import networks
from tests.exporter.passes.graphs import count_batch_norms
from tests.exporter.passes.half_graphs import parse_errors

pytestmark = pytest.mark.tf
QUICK = ("resnet18",)
ONE_OF_EACH = ("resnet18", "resnet50", "resnext26_32x4d")
IMAGES = np.random.default_rng(0).random((4, 96, 96, 1), np.float32)


@dataclass(frozen=True)
class Converted:
    """A zoo model of the default size whose batch norms do something, and its folded graph."""

    source: sources.Source
    batch_norms: int
    graph: ir.Model
    data: bytes
    reports: dict[str, PassReport]


def models(names: Iterable[str]) -> list[Any]:
    return [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in names]


@pytest.fixture(scope="module", params=models(zoo.ZOO))
def converted(keras: ModuleType, request: pytest.FixtureRequest) -> Iterator[Converted]:
    from exporter.network import frontend

    keras.utils.set_random_seed(1)
    model = networks.shake_statistics(zoo.build(request.param))
    batch_norms = sum(isinstance(layer, keras.layers.BatchNormalization) for layer in model.layers)
    source = sources.from_model(model, request.param)
    graph = frontend.to_onnx(source)
    reports = {report.name: report for report in pipeline.run_passes(graph, "nhwc")}
    yield Converted(source, batch_norms, graph, serialize.checked_bytes(graph), reports)
    keras.backend.clear_session()
    gc.collect()


def test_it_is_the_same_network_with_all_batch_norms_folded(converted: Converted) -> None:
    """Within 1e-4 of the largest logit."""
    feeds = [{"input": IMAGES}]
    agreement = prove_equal(converted.source, converted.data, feeds, "nhwc").agreement
    assert agreement.label_flips == 0
    assert agreement.max_relative_error <= 1e-4
    folded = converted.reports["fold_batch_norm"]
    assert len(folded.applied) == converted.batch_norms > 0
    assert folded.kept == []
    assert count_batch_norms(converted.graph) == 0
    ops = [node.op_type for node in converted.graph.graph]
    assert ops.count("Transpose") == 1, "only the one at the NHWC input is left"
    assert set(ops) == {"Transpose", "Conv", "Relu", "Add", "MaxPool", "ReduceMean", "MatMul"}


def measured(model: ir.Model, names: list[str], x: np.ndarray) -> dict[str, float]:
    data, outputs = tapped(model, names)
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    values = {**dict(zip(outputs, session.run(outputs, {"input": x}), strict=True)), "input": x}
    return {name: float(np.abs(values[name]).max()) for name in names}


def check(model: ir.Model, before: bytes, amax: dict[str, float], x: np.ndarray) -> float:
    halving = to_half(model, Measured(amax, len(x)), "fp32")
    data = serialize.checked_bytes(model)
    assert halving.warnings == []
    assert halving.reports[1].applied
    if importlib.util.find_spec("tensorrt_rtx"):
        assert parse_errors(data) == []
    return compare_simulated(before, data, [{"input": x}]).max_relative_error


@pytest.mark.parametrize("converted", models(ONE_OF_EACH), indirect=True)
def test_fp16_and_int8_with_fp16_around_it(converted: Converted) -> None:
    """Valid, taken by NVIDIA's parser, and close."""
    plain, x = converted.data, IMAGES
    convolutions = sum(node.op_type == "Conv" for node in converted.graph.graph)
    graph = prepared(plain)
    amax = measured(graph, tensors_to_measure(graph), x)
    # A rounding of 2**-11 a layer, of random sign: they add as a walk does. Four times that.
    limit = 4 * math.sqrt(convolutions) * 2.0**-11
    assert check(prepared(plain), plain, amax, x) < limit

    scheme = schemes.lookup("tensorrt")
    graph = prepared(plain)
    ranges = measured(graph, tensors_to_calibrate(graph, scheme), x)
    InsertQdq(scheme, {tensor: (-one, one) for tensor, one in ranges.items()})(graph)
    int8 = serialize.checked_bytes(graph)
    # Rounding moves some values to the next of 127 steps: as far as INT8 itself is from FP32.
    assert check(graph, int8, amax, x) < 0.1
    assert not [each for each in lint_qdq(graph, scheme) if each.severity == "error"]


def prepared(data: bytes) -> ir.Model:
    from onnx_ir.passes import common

    model = ir.from_proto(onnx.load_model_from_string(data))
    common.ShapeInferencePass()(model)
    MeanToPool()(model)
    DenseToGemm()(model)
    return model
