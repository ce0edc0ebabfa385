"""Graphs that the passes' tests are made of, and what every fold and every sink must keep."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from exporter.passes._affine import _links_of
from exporter.passes.fold_batch_norm import FoldBatchNorm
from exporter.passes.linear import read_linear
from exporter.passes.sink_transposes import SinkTransposes

# Sums of at most 200 float32 products, then at most 8 roundings in the unfolded chain, each of
# 6e-8: about 1e-6 of the largest output. A wrong axis, sign or epsilon is off by 1e-2 and more.
FOLD_TOLERANCE = 1e-5
# Element by element the arithmetic is the same; sums over axes may run in another order: at most
# 60 terms, each rounded by 6e-8. A wrong axis or constant is off by 1e-1.
SINK_TOLERANCE = 1e-5

X_SHAPES = {1: (2, 4, 9), 2: (2, 4, 6, 5), 3: (1, 4, 4, 3, 4)}
X_SHAPE = (2, 3, 4, 5)
NHWC, NCHW = "Transpose <perm = [0, 2, 3, 1]>", "Transpose <perm = [0, 3, 1, 2]>"


def ops(model):
    return [node.op_type for node in model.graph.node]


@dataclass
class Net:
    """A graph under construction: x -> nodes -> y."""

    x_shape: tuple[int, ...]
    opset: int = 17
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    arrays: dict[str, np.ndarray] = field(default_factory=dict)
    graph_inputs: list[str] = field(default_factory=list)
    outputs: list[str] = field(default_factory=list)
    last: str = "x"
    rng: np.random.Generator = field(default_factory=lambda: np.random.default_rng(7))

    def constant(self, name, array):
        self.arrays[name] = np.asarray(array, np.float32)
        return name

    def random(self, name, *shape, low=0.5, high=1.5, signed=True):
        values = self.rng.uniform(low, high, shape)
        signs = self.rng.choice([-1.0, 1.0], shape) if signed else 1.0
        return self.constant(name, values * signs)

    def node(self, op, *others, name=None, first=None, swap=False, **attributes):
        name = name or f"{op.lower()}{len(self.nodes)}"
        inputs = [first or self.last, *others]
        inputs = inputs[::-1] if swap else inputs
        outputs = attributes.pop("outputs", [f"{name}_out"])
        self.nodes.append(helper.make_node(op, inputs, outputs, name=name, **attributes))
        self.last = outputs[0]
        return self

    def conv(self, channels=6, bias=True, rank=2, group=1, op="Conv", **attributes):
        rows, columns = channels, self.x_shape[1] // group
        if op == "ConvTranspose":
            rows, columns = self.x_shape[1], channels // group
        inputs = [self.random("w", rows, columns, *[3] * rank)]
        inputs += [self.random("bias", channels)] if bias else []
        return self.node(op, *inputs, name="conv", group=group, **attributes)

    def batch_norm(self, channels=6, prefix="bn", **attributes):
        names = [self.random(f"{prefix}_{part}", channels) for part in ("gamma", "beta", "mean")]
        names.append(self.random(f"{prefix}_var", channels, signed=False))
        return self.node("BatchNormalization", *names, name=prefix, **attributes)

    def model(self):
        types = onnx.TensorProto.FLOAT
        inputs = [helper.make_tensor_value_info("x", types, ["N", *self.x_shape[1:]])]
        inputs += [
            helper.make_tensor_value_info(n, types, self.arrays[n].shape) for n in self.graph_inputs
        ]
        outputs = [
            helper.make_tensor_value_info(n, types, None) for n in [*self.outputs, self.last]
        ]
        initializers = [numpy_helper.from_array(a, n) for n, a in self.arrays.items()]
        graph = helper.make_graph(self.nodes, "net", inputs, outputs, initializers)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)])
        model.ir_version = 8
        model = onnx.shape_inference.infer_shapes(model)
        onnx.checker.check_model(model, full_check=True)
        return model


def image(rank=2):
    return Net(X_SHAPES[rank])


def affine_chain(net, channels=6, shape=(1, 6, 1, 1)):
    """Mul and Add as tf2onnx writes a batch norm."""
    net.node("Mul", net.random("scale", *shape), name="scaling")
    return net.node("Add", net.random("shift", *shape), name="shifting")


def run(model, x):
    groups = {a.i for n in model.graph.node for a in n.attribute if a.name == "group"}
    if "ConvTranspose" in ops(model) and groups != {1}:
        # onnx 1.23's reference gets grouped transposed convolution wrong (its bias goes to the
        # wrong channels, several channels a group raise), so onnxruntime is the oracle here.
        return run_in_onnxruntime(model, x)
    return ReferenceEvaluator(model).run(None, {"x": x})


def run_in_onnxruntime(model, x):
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return session.run(None, {"x": x})


def count_batch_norms(model):
    """How many batch norms an NCHW graph has, foldable or not, subgraphs included.

    BatchNormalization nodes, plus chains after a linear node with a Mul or Div by one constant
    a channel.
    """
    count = 0
    for node in model.graph.all_nodes():
        count += node.op_type == "BatchNormalization" and node.domain == ""
        if (linear := read_linear(node)) is not None:
            count += sum(1 for _ in _first_gains(node.outputs[0], linear))
    return count


def _first_gains(value, linear):
    for link in _links_of(value, linear):
        if link.node.op_type == "BatchNormalization":
            continue  # itself one, with whatever follows it
        if link.normalizes:
            yield link.node
        elif not isinstance(link.map, str):
            yield from _first_gains(link.node.outputs[0], linear)


def fold(net):
    """Fold, and check that the function is the same and the names at the border too."""
    before = net.model()
    graph = ir.from_proto(before)
    batch_norms = count_batch_norms(graph)
    folding = FoldBatchNorm()
    result = folding(graph)
    after = ir.to_proto(graph)
    onnx.checker.check_model(after, full_check=True)
    x = np.random.default_rng(1).normal(size=net.x_shape).astype(np.float32)
    assert [o.name for o in after.graph.output] == [o.name for o in before.graph.output]
    for expected, got in zip(run(before, x), run(after, x), strict=True):
        assert got.dtype == expected.dtype
        limit = FOLD_TOLERANCE * np.nanmax(np.abs(expected), initial=1e-30)
        np.testing.assert_allclose(got, expected, rtol=0, atol=limit)
    changed = bool(folding.report.applied or folding.report_bias.applied)
    assert result.modified == changed
    assert count_batch_norms(graph) == batch_norms - len(folding.report.applied)
    again = FoldBatchNorm()
    assert not again(graph).modified, "a second call finds nothing to do"
    return folding, after


def parse(body, *, outputs="float[a,b,c,d] y", opset=17, inputs="float[N,3,4,5] x", **arrays):
    header = f'<ir_version: 8, opset_import: ["" : {opset}]>'
    model = onnx.parser.parse_model(f"{header}\nnet ({inputs}) => ({outputs}) {{ {body} }}")
    for name, array in arrays.items():
        model.graph.initializer.append(numpy_helper.from_array(np.asarray(array), name))
    return onnx.shape_inference.infer_shapes(model)


def between(expression, **arguments):
    """NCHW x, to NHWC, one op, back to NCHW."""
    return parse(f"t = {NHWC} (x)\n [n] r = {expression}\n y = {NCHW} (r)", **arguments)


def uniform(*shape, seed=0):
    return np.random.default_rng(seed).uniform(0.5, 2, shape).astype(np.float32)


def sink(model, *, x=None):
    """Sink, and check function, names at the border, and shapes."""
    graph = ir.from_proto(model)
    sinking = SinkTransposes()
    sinking(graph)
    after = ir.to_proto(graph)
    onnx.checker.check_model(after, full_check=True)
    onnx.shape_inference.infer_shapes(after, strict_mode=True, check_type=True)
    assert [o.name for o in after.graph.output] == [o.name for o in model.graph.output]
    feeds = {"x": uniform(*X_SHAPE) if x is None else x}
    before_outputs = ReferenceEvaluator(model).run(None, feeds)
    after_outputs = ReferenceEvaluator(after).run(None, feeds)
    for expected, got in zip(before_outputs, after_outputs, strict=True):
        limit = SINK_TOLERANCE * np.max(np.abs(expected))
        np.testing.assert_allclose(got, expected, rtol=0, atol=limit, strict=True)
    assert not SinkTransposes()(graph).modified, "a second call finds nothing to do"
    return sinking, after
