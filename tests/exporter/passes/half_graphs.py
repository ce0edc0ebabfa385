"""How the tests of FP16 type a graph, run it, and show it to NVIDIA's parser."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
from onnx_ir.passes import common

from exporter.passes.lint_types import lint_types
from exporter.passes.raise_opset import RaiseOpset
from exporter.passes.simulate_fp16 import SimulateFp16
from exporter.passes.to_fp16 import ToFp16

HALF, FLOAT = onnx.TensorProto.FLOAT16, onnx.TensorProto.FLOAT


def typed(model, amax=None, io="fp32"):
    """Raise the opset and type FP16; the result is valid ONNX, and clean of lint."""
    graph = ir.from_proto(model)
    common.ShapeInferencePass()(graph)
    RaiseOpset()(graph)
    half = ToFp16(amax or {}, io)
    modified = half(graph).modified
    after = ir.to_proto(graph)
    assert modified == ("fp16" in types(after).values())
    onnx.checker.check_model(after, full_check=True)
    inferred = onnx.shape_inference.infer_shapes(after, strict_mode=True, check_type=True)
    written = {v.name: v.type.tensor_type.elem_type for v in after.graph.value_info}
    for value in inferred.graph.value_info:
        found = value.type.tensor_type.elem_type
        assert written.get(value.name, found) == found, "types are as ONNX infers them"
    assert lint_types(graph) == []
    assert [o.name for o in after.graph.output] == [o.name for o in model.graph.output]
    assert not ToFp16(amax or {}, io)(graph).modified, "a second call finds nothing to do"
    return half.report, after


def simulated(model):
    graph = ir.from_proto(model)
    assert SimulateFp16()(graph).modified == ("fp16" in types(model).values())
    after = ir.to_proto(graph)
    onnx.checker.check_model(after, full_check=True)
    return after


def types(model):
    """Of each node's first output, by that output's name."""
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True)
    values = [*inferred.graph.value_info, *inferred.graph.output, *inferred.graph.input]
    names = {FLOAT: "fp32", HALF: "fp16"}
    return {v.name: names.get(v.type.tensor_type.elem_type, "other") for v in values}


def ops(model):
    return [node.op_type for node in model.graph.node]


def rounded(x):
    return np.asarray(x, np.float32).astype(np.float16).astype(np.float32)


def parse_errors(data):
    """What NVIDIA's parser says of a strongly typed network: (node, message); [] if it takes it."""
    import tensorrt_rtx as trt

    from exporter.targets._tensorrt_watch import make_log

    logger = make_log(trt)  # the process's one: TensorRT ignores a second
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    if parser.parse(data):
        return []
    errors = [parser.get_error(index) for index in range(parser.num_errors)]
    return [(error.node_name(), error.desc()) for error in errors]
