"""Write quantization into the graph as pairs of QuantizeLinear and DequantizeLinear."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np
import onnx_ir as ir

from exporter.errors import WrongUse
from exporter.passes import Kept, PassReport
from exporter.passes._quantize import (
    ActivationParameters,
    activation_parameters,
    bias_scales,
    quantize_bias,
    quantize_weight,
    weight_scales,
    widen_for_bias,
    zero_channels,
)
from exporter.passes.constants import Array, drop_unused_constants, label
from exporter.passes.linear import Linear, read_parameters
from exporter.passes.placement import Placement, clip_limits, place, weight_axis
from exporter.passes.qdq import Builder, attributes_of
from exporter.passes.schemes import Scheme

FIRST_OPSET = 13
"""The first opset with a scale for each channel."""


def tensors_to_calibrate(
    model: ir.Model, scheme: Scheme, *, keep: Collection[str] = ()
) -> list[str]:
    """Return the tensors whose range `InsertQdq` needs, in graph order, graph inputs included.

    Outputs of ops that only select or move elements (MaxPool or Concat) share the scale of their
    inputs, so they are left out. A `keep` never needs more tensors than no `keep`, so one
    calibration serves every choice.
    """
    placement = place(model, scheme, keep)
    needed = {source for value in placement.values for source in placement.sources(value)}
    ordered = [*model.graph.inputs, *(out for node in model.graph for out in node.outputs)]
    return [str(value.name) for value in ordered if value in needed]


class InsertQdq(ir.passes.InPlacePass):
    """Quantize a folded NCHW float32 graph by a scheme, as explicit Q/DQ.

    x ~ (q - zero_point) * scale with q = clip(round(x / scale) + zero_point). Activations have
    one scale, from `ranges`. Weights have one scale per output channel, amax / 127, with zero
    point 0. Biases stay float32 (`tensorrt`, `fp8`) or become int32 in units of input_scale *
    weight_scale (`cpu`). For FP8, values are rounded to E4M3, and the scale is amax / 448.

    Each tensor has one pair, and all its readers read from it, float ones too: with a second,
    float output, the kernel before it could not write integers only. A pair stands after the
    activation function, never between it and the node that it fuses with. On a residual Add, the
    `tensorrt` and `fp8` schemes quantize only the shortcut. The other branch, the main one, is
    the output of a convolution that only the Add reads. If both branches or neither are that, the
    main one has more nodes before it. MaxPool, Concat and, for `cpu`, ops that change only the
    layout share one scale between inputs and output (for `fp8`, only Concat does). For `cpu`, a
    ReLU's output in a Concat with signed tensors keeps its own scale, so that its zero point
    stays 0.

    It must not fire on the nodes in `keep` (but their inputs and outputs may still be quantized
    for other nodes), on linear nodes whose weights aren't constant, on a grouped ConvTranspose,
    on convolutions that the scheme has no kernel for (`ConvLimits`), or on a graph that is
    quantized already. Each unchanged linear node is in `report.kept`. If the graph has integer
    arithmetic, types must have been inferred. Otherwise it would be taken for float.

    Attributes:
        report: report of the latest call; `applied` names the linear nodes.
    """

    def __init__(
        self,
        scheme: Scheme,
        ranges: Mapping[str, tuple[float, float]],
        *,
        keep: Collection[str] = (),
    ) -> None:
        """Take the results of the calibration.

        Args:
            scheme: a row of `exporter.passes.schemes.SCHEMES`.
            ranges: (low, high) of each of `tensors_to_calibrate`, by name; others are ignored.
            keep: names of nodes to leave in float.
        """
        self.report = PassReport("insert_qdq")
        self._scheme, self._ranges = scheme, ranges
        self._keep = frozenset(keep)

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Decide the places, quantize each weight, then insert a pair at each activation.

        Raises:
            WrongUse: a range is missing or not finite, a name in `keep` is not a node's, or the
                opset is too old for the scheme.
        """
        self.report = PassReport("insert_qdq")
        _check_opset(model, self._scheme)
        if any(node.op_type == "DequantizeLinear" for node in model.graph.all_nodes()):
            self.report.kept.append(Kept(str(model.graph.name), "is quantized already"))
            return ir.passes.PassResult(model, modified=False)
        placement = place(model, self._scheme, self._keep)
        parameters = {value: self._parameters(value, placement) for value in placement.values}
        self.report.kept.extend(placement.kept)
        insertion = _Insertion(model.graph, self._scheme)
        for linear in placement.linears:  # first, while each still reads its original input
            source = linear.node.inputs[0]
            assert source is not None
            insertion.quantize_linear(linear, parameters[source])
            self.report.applied.append(label(linear.node))
        for value in placement.values:
            insertion.insert_pair(value, parameters[value], placement.groups[value][0])
        drop_unused_constants(model.graph)
        return ir.passes.PassResult(model, modified=bool(placement.values))

    def _parameters(self, value: ir.Value, placement: Placement) -> ActivationParameters:
        ranges = [self._range(source) for source in placement.sources(value)]
        low, high = min(low for low, _ in ranges), max(high for _, high in ranges)
        limit = None
        if placement.never_negative(value):
            low = 0.0
            limits = [clip_limits(source.producer()) for source in placement.groups[value]]
            highest = [found[1] for found in limits if found is not None]
            limit = min(highest) if highest else None
            high = high if limit is None or len(ranges) > 1 else min(high, limit)
        return activation_parameters(low, high, self._scheme, limit=limit)

    def _range(self, value: ir.Value) -> tuple[float, float]:
        name = str(value.name)
        if name not in self._ranges:
            raise WrongUse(
                f"the calibration has no range for tensor {name!r}",
                hint="calibrate this exact graph with the same scheme",
            )
        low, high = self._ranges[name]
        if not (np.isfinite(low) and np.isfinite(high) and low <= high):
            raise WrongUse(f"the range of tensor {name!r} is invalid: ({low}, {high})")
        return float(low), float(high)


def _check_opset(model: ir.Model, scheme: Scheme) -> None:
    opset = model.opset_imports.get("", 1)
    if opset < scheme.opset:
        what = "a scale for each channel" if scheme.opset == FIRST_OPSET else scheme.activation
        raise WrongUse(
            f"the graph has opset {opset}, but {what} needs opset {scheme.opset}",
            hint="raise it with onnx.version_converter.convert_version",
        )


class _Insertion:
    """Edits one graph, and remembers constants that several nodes share."""

    def __init__(self, graph: ir.Graph, scheme: Scheme) -> None:
        self._graph, self._scheme, self._builder = graph, scheme, Builder(graph)
        self._shared: dict[ir.Value, tuple[ir.Value, ir.Value]] = {}
        self._weights: dict[tuple[ir.Value, int, bytes], ir.Value] = {}

    def insert_pair(
        self, value: ir.Value, parameters: ActivationParameters, first: ir.Value
    ) -> None:
        """Put Q and DQ after the value. The constants are named after its group's `first`."""
        readers = tuple(value.uses())
        scale, zero_point = self._constants(parameters, first)
        quantize = self._builder.quantize(value, scale, zero_point)
        hint = f"{value.name}_dequantized"
        dequantize = self._builder.dequantize(quantize.outputs[0], scale, zero_point, hint, 0)
        producer = value.producer()
        if producer is None:
            self._graph.insert_before(self._graph[0], [quantize, dequantize])
        else:
            self._graph.insert_after(producer, [quantize, dequantize])
        for node, index in readers:
            node.replace_input_with(index, dequantize.outputs[0])
        # An integer kernel writes integers only, so the graph's output must read from the DQ too.
        if value.is_graph_output() and self._scheme.outputs and producer is not None:
            _give_instead(self._graph, value, dequantize.outputs[0])

    def quantize_linear(self, linear: Linear, source: ActivationParameters) -> None:
        """Replace the weight and, in some schemes, the bias by a DQ of integers."""
        node, scheme = linear.node, self._scheme
        parameters = read_parameters(linear)
        assert not isinstance(parameters, str), "place() has read them already"
        weight, axis = parameters.weight, weight_axis(node)
        scales = weight_scales(weight, axis, scheme.weights)
        bias = parameters.bias if scheme.int32_bias and node.op_type != "MatMul" else None
        if bias is not None:
            bias = np.broadcast_to(bias, (linear.channels,))
            zero = zero_channels(weight, axis)
            scales = widen_for_bias(scales, zero, bias, source.scale)
        self._replace_weight(node, weight, scales, axis)
        if bias is not None:
            self._replace_bias(node, bias, bias_scales(scales, source.scale))

    def _constants(
        self, parameters: ActivationParameters, first: ir.Value
    ) -> tuple[ir.Value, ir.Value]:
        if first not in self._shared:
            self._shared[first] = (
                self._builder.constant(parameters.scale, f"{first.name}_scale"),
                self._builder.constant(parameters.zero_point, f"{first.name}_zero_point"),
            )
        return self._shared[first]

    def _replace_weight(self, node: ir.Node, weight: Array, scales: Array, axis: int) -> None:
        value, build = node.inputs[1], self._builder
        assert value is not None
        key, name = (value, axis, scales.tobytes()), value.name
        if key in self._weights:
            node.replace_input_with(1, self._weights[key])
            return
        scale = build.constant(scales, f"{name}_scale")
        dtype = self._scheme.weight_dtype
        zero_point = build.constant(np.zeros(scales.shape, dtype), f"{name}_zero_point")
        if self._scheme.float_weights:
            quantize = build.quantize(value, scale, zero_point)
            for attribute in attributes_of(scale, axis):
                quantize.attributes.add(attribute)
            self._graph.insert_before(node, quantize)
            integers = quantize.outputs[0]
        else:
            array = quantize_weight(weight, scales, axis, self._scheme.weights, dtype)
            integers = build.constant(array, f"{name}_quantized")
        hint = f"{name}_dequantized"
        dequantize = build.dequantize(integers, scale, zero_point, hint, axis)
        self._graph.insert_before(node, dequantize)
        node.replace_input_with(1, dequantize.outputs[0])
        self._weights[key] = dequantize.outputs[0]

    def _replace_bias(self, node: ir.Node, bias: Array, scales: Array) -> None:
        name, build = node.inputs[2] and node.inputs[2].name, self._builder
        integers = build.constant(quantize_bias(bias, scales), f"{name}_quantized")
        scale = build.constant(scales, f"{name}_scale")
        dequantize = build.dequantize(integers, scale, None, f"{name}_dequantized", 0)
        self._graph.insert_before(node, dequantize)
        node.replace_input_with(2, dequantize.outputs[0])
        node.attributes.pop("beta", None)  # a Gemm's beta is in the new bias already


def _give_instead(graph: ir.Graph, old: ir.Value, new: ir.Value) -> None:
    """Make `new` a graph output in place of `old`, under the same name."""
    for index, value in enumerate(tuple(graph.outputs)):
        if value is old:
            graph.outputs[index] = new
    new.shape, new.type = old.shape, old.type
    name, old.name = old.name, new.name
    new.name = name
