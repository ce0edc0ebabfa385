"""What TensorRT-RTX's own parser and builder make of FP8: no GPU, so built and never run.

docs/concepts/schemes.md says what is held here. A release that answers otherwise fails a test,
and then the limits in `exporter.passes.schemes` want another look.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from exporter.targets._tensorrt_watch import make_log

trt: Any = pytest.importorskip("tensorrt_rtx", reason="pip install 'exporter[rtx]'")

E4M3, E5M2 = ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2
ADA_AND_BLACKWELL = ("SM89", "SM120")
# It tells so of a convolution that it takes as a quantized one, and of no other.
QUANTIZED = "Converting conv weight scales to fp32"


def constant(name: str, array: Any) -> onnx.TensorProto:
    array = np.asarray(array)
    kind = helper.np_dtype_to_tensor_dtype(array.dtype)
    return helper.make_tensor(name, kind, array.shape, array.tobytes(), raw=True)


def layer(
    shape: tuple[int, ...] = (64, 64, 3, 3),
    group: int = 1,
    weight: Any = E4M3,
    activation: Any = E4M3,
    *,
    scales: Any = np.float16,
    per_channel: bool = True,
) -> onnx.ModelProto:
    """Q and DQ, and a Conv or, of a matrix, a Gemm, with a DQ of its weight; FP16 around it."""
    outputs, inputs, *kernel = shape
    inputs *= group
    values = np.random.default_rng(0).normal(size=shape)
    scale = np.full(outputs if per_channel else (), 0.02, scales)
    constants = [
        constant("s", scales(0.02)),
        constant("z", np.zeros((), activation)),
        constant("w", np.clip(values * 40, -100, 100).astype(weight)),
        constant("ws", scale),
        constant("wz", np.zeros(scale.shape, weight)),
    ]
    axis = {"axis": 0} if per_channel else {}
    op = (
        helper.make_node("Conv", ["d", "wd"], ["y"], group=group, pads=[k // 2 for k in kernel] * 2)
        if kernel
        else helper.make_node("Gemm", ["d", "wd"], ["y"], transB=1)
    )
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"]),
        helper.make_node("DequantizeLinear", ["w", "ws", "wz"], ["wd"], **axis),
        op,
    ]
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(scales))
    x = helper.make_tensor_value_info("x", kind, [1, inputs, *[16 for _ in kernel]])
    y = helper.make_empty_tensor_value_info("y")
    y.type.tensor_type.elem_type = kind
    graph = helper.make_graph(nodes, "layer", [x], [y], constants)
    opsets = [helper.make_opsetid("", 19)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def build(model: onnx.ModelProto, capabilities: tuple[str, ...] = ADA_AND_BLACKWELL) -> Any:
    """Return the log of a build that was done, or what refused it in words."""
    log = make_log(trt)
    builder = trt.Builder(log)
    flag = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    network = builder.create_network(flag)
    parser = trt.OnnxParser(network, log)
    if not parser.parse(model.SerializeToString()):
        return f"parser: {parser.get_error(0).desc()}"
    config = builder.create_builder_config()
    if capabilities:
        config.num_compute_capabilities = len(capabilities)
        for index, name in enumerate(capabilities):
            config.set_compute_capability(getattr(trt.ComputeCapability, name), index)
    if builder.build_serialized_network(network, config) is None:
        return f"builder: {' '.join(log.errors)}"
    return log.warnings


def is_quantized(warnings: Any) -> bool:
    """Whether a build was done, with its convolution taken as a quantized one."""
    assert isinstance(warnings, list), warnings
    return any(QUANTIZED in text for text in warnings)


@pytest.mark.parametrize("capability", ["SM89", "SM120", "SM121"])
def test_ada_and_blackwell_take_fp8(capability: str) -> None:
    assert is_quantized(build(layer(), (capability,)))


@pytest.mark.parametrize("capability", ["SM75", "SM80", "SM86"])
@pytest.mark.parametrize("shape", [(64, 64, 3, 3), (64, 64)])
def test_turing_and_ampere_do_not(capability: str, shape: tuple[int, ...]) -> None:
    for capabilities in ((capability,), (capability, "SM89")):
        found = build(layer(shape), capabilities)
        assert f"{capability.lower()}, because the model contains HW-specific datatypes" in found
    assert is_quantized(build(layer(weight=np.int8, activation=np.int8), ("SM86",)))


@pytest.mark.parametrize(
    ("shape", "group", "quantized"),
    [
        ((64, 64, 3, 3), 1, True),
        ((64, 64, 5, 5), 1, True),
        ((64, 64, 6, 6), 1, False),  # 36 weights, over 32
        ((64, 64, 7, 7), 1, False),
        ((64, 1, 7, 7), 1, False),  # the zoo's stem
        # NVIDIA's Model Optimizer leaves these in float; this builder does not.
        ((64, 1, 3, 3), 1, True),
        ((10, 64, 1, 1), 1, True),
        ((33, 17, 3, 3), 1, True),
        ((64, 4, 3, 3), 16, True),
        ((64, 1, 3, 3), 64, True),
    ],
)
def test_which_convolutions_are_quantized(
    shape: tuple[int, ...], group: int, quantized: bool
) -> None:
    assert is_quantized(build(layer(shape, group))) is quantized
    integers = layer(shape, group, np.int8, np.int8)
    assert is_quantized(build(integers)), "INT8 has no such limit on the filter"


def test_dense_layers_and_scales_by_tensor_are_built() -> None:
    for model in (
        layer((10, 512)),
        layer((64, 64), per_channel=False),
        layer(per_channel=False),
        layer(scales=np.float32),
    ):
        assert isinstance(build(model), list)


@pytest.mark.parametrize(("weight", "activation"), [(np.int8, E4M3), (E4M3, np.int8)])
def test_one_convolution_of_int8_and_fp8_is_refused(weight: Any, activation: Any) -> None:
    found = build(layer(weight=weight, activation=activation))
    assert found.startswith("builder: ")
    assert "dtype == W.type()" in found


def test_the_parser_takes_e4m3_alone() -> None:
    found = build(layer(weight=E5M2, activation=E5M2))
    assert found.startswith("parser: Failed to import initializer")


def _scale_of_another_type(model: onnx.ModelProto) -> None:
    for each in model.graph.initializer:
        if each.name == "ws":
            each.CopyFrom(numpy_helper.from_array(np.full(64, 0.02, np.float32), "ws"))


def _zero_point(model: onnx.ModelProto) -> None:
    for each in model.graph.initializer:
        if each.name == "z":
            each.CopyFrom(constant("z", np.ones((), E4M3)))


def _scales_by_channel(model: onnx.ModelProto) -> None:
    for each in model.graph.initializer:
        if each.name == "s":
            each.CopyFrom(constant("s", np.full(64, 0.02, np.float16)))
        if each.name == "z":
            each.CopyFrom(constant("z", np.zeros(64, E4M3)))


@pytest.mark.parametrize(
    ("change", "refused"),
    [
        (_scale_of_another_type, "must be of same type"),
        # These two it builds, so the lint has to find them.
        (_zero_point, None),
        (_scales_by_channel, None),
    ],
)
def test_what_it_says_to_broken_graphs(
    change: Callable[[onnx.ModelProto], None], refused: str | None
) -> None:
    model = layer()
    change(model)
    found = build(model)
    if refused is None:
        assert isinstance(found, list)
    else:
        assert refused in found
