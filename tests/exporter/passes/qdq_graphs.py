"""Small networks to quantise, and how the tests read and run the result."""

from __future__ import annotations

import re

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime

from exporter.passes.insert_qdq import InsertQdq, tensors_to_calibrate
from tests.exporter.passes.graphs import parse

LEVELS = onnxruntime.GraphOptimizationLevel
X = np.random.default_rng(5).uniform(-1, 1, (2, 4, 8, 8)).astype(np.float32)


def arrays(body, shapes):
    """Weights and biases for the names of a graph's text that are in `shapes`."""
    rng = np.random.default_rng(3)
    used = set(re.findall(r"\w+", body))
    return {
        name: rng.uniform(-1, 1, shape).astype(np.float32)
        for name, shape in shapes.items()
        if name in used
    }


SHAPES = {
    **{f"w{i}": (4, 4, 3, 3) for i in range(1, 6)},
    "p": (4, 4, 1, 1),
    "g": (4, 2, 3, 3),
    "d": (4, 1, 3, 3),
    "t": (4, 4, 2, 2),
    "b": (4,),
    "bb": (4,),
    "dense": (4, 6),
    "db": (6,),
}
CONV = "Conv <pads = [1, 1, 1, 1]>"


def net(body, outputs="float[a,b,c,d] y", **constants):
    """NCHW x of 4 channels, 8x8; the names of `SHAPES` are weights."""
    given = {name: np.asarray(value, np.float32) for name, value in constants.items()}
    shapes = {name: shape for name, shape in SHAPES.items() if name not in given}
    return parse(
        body,
        outputs=outputs,
        opset=18,
        inputs="float[N,4,8,8] x",
        **given,
        **arrays(body, shapes),
    )


def run(model, *, level=LEVELS.ORT_DISABLE_ALL, extra=(), x=X, save=None, disabled=()):
    """Outputs by name, the `extra` tensors too."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    have = {value.name for value in copy.graph.output} | {"x"}
    copy.graph.output.extend(
        onnx.helper.make_empty_tensor_value_info(name) for name in extra if name not in have
    )
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = level
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    if save is not None:
        options.optimized_model_filepath = str(save)
    session = onnxruntime.InferenceSession(
        copy.SerializeToString(),
        options,
        providers=["CPUExecutionProvider"],
        disabled_optimizers=list(disabled),
    )
    names = [value.name for value in session.get_outputs()]
    return {**dict(zip(names, session.run(None, {"x": x}), strict=True)), "x": x}


def ranges_of(model, scheme, *, keep=(), x=X):
    names = tensors_to_calibrate(ir.from_proto(model), scheme, keep=keep)
    values = run(model, extra=names, x=x)
    return {name: (float(values[name].min()), float(values[name].max())) for name in names}


def quantize(model, scheme, *, keep=(), x=X):
    """Insert, with the ranges of `x`; check validity and the names at the border."""
    graph = ir.from_proto(model)
    ranges = ranges_of(model, scheme, keep=keep, x=x)
    inserting = InsertQdq(scheme, ranges, keep=keep)
    result = inserting(graph)
    after = ir.to_proto(graph)
    onnx.checker.check_model(after, full_check=True)
    assert result.modified == bool(ranges)
    assert [o.name for o in after.graph.output] == [o.name for o in model.graph.output]
    if ranges:
        assert not InsertQdq(scheme, {})(graph).modified, "a second call finds nothing to do"
    return inserting, after


def placement(model):
    """What each node reads, by output: q(v) is v behind a pair, q(w) a quantised constant."""
    graph = ir.from_proto(model).graph
    return {
        node.outputs[0].name.removesuffix("_dequantized"): [
            _reading(value) for value in node.inputs if value is not None
        ]
        for node in graph
        if node.op_type not in ("QuantizeLinear", "DequantizeLinear")
    }


def _reading(value):
    node = value.producer()
    if node is None or node.op_type != "DequantizeLinear":
        return value.name
    source = node.inputs[0]
    quantize = source.producer()
    if quantize is not None:
        source = quantize.inputs[0]
    return f"q({source.name.removesuffix('_quantized')})"


def constant(model, name):
    (found,) = [each for each in model.graph.initializer if each.name == name]
    return onnx.numpy_helper.to_array(found)
