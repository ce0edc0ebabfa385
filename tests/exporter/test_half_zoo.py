"""FP16 and INT8 with FP16 around it, for every model of the zoo: valid, taken by NVIDIA, close."""

from __future__ import annotations

import gc
import importlib.util
import math
from types import ModuleType

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest

from calibration.tap import tapped
from exporter import pipeline, serialize, sources
from exporter.half import Measured, compare_simulated, to_half
from exporter.models import zoo
from exporter.passes import schemes
from exporter.passes.dense_to_gemm import DenseToGemm
from exporter.passes.insert_qdq import InsertQdq, tensors_to_calibrate
from exporter.passes.lint_qdq import lint_qdq
from exporter.passes.mean_to_pool import MeanToPool
from exporter.passes.to_fp16 import tensors_to_measure
from tests.exporter import networks
from tests.exporter.passes.half_graphs import parse_errors

pytestmark = pytest.mark.tf
SIDE = 32
SMALL = ("resnet18",)


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


@pytest.mark.parametrize(
    "name", [n if n in SMALL else pytest.param(n, marks=pytest.mark.slow) for n in zoo.ZOO]
)
def test_every_zoo_model_in_fp16(keras: ModuleType, name: str) -> None:
    from exporter import frontend

    keras.utils.set_random_seed(1)
    model = networks.shake_statistics(zoo.build(name, image_size=SIDE))
    graph = frontend.to_onnx(sources.from_model(model, name))
    pipeline.run_passes(graph, "nhwc")
    x = np.random.default_rng(0).random((4, SIDE, SIDE, 1), np.float32)
    plain = serialize.checked_bytes(graph)
    convolutions = sum(node.op_type == "Conv" for node in graph.graph)
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
    keras.backend.clear_session()
    gc.collect()


def prepared(data: bytes) -> ir.Model:
    from onnx_ir.passes import common

    model = ir.from_proto(onnx.load_model_from_string(data))
    common.ShapeInferencePass()(model)
    MeanToPool()(model)
    DenseToGemm()(model)
    return model
