"""Translate Keras or TensorFlow to one ONNX graph in float32, with batch norms still visible.

tf2onnx translates op by op, on a graph *without weights*. We trace the network with its variables
as extra inputs, translate it, and put the variables back as initializers. So nothing is frozen,
and no weights are copied. Neither TensorFlow's constant folding nor tf2onnx's optimizers can merge
a batch norm before our own pass counts it. This module also does three things that tf2onnx
doesn't:

* Grouped convolutions: Keras wraps them into an XLA-compiled function, which tf2onnx silently
  turns into an invalid op. We remove the XLA mark, and inline the function.
* If an op isn't converted, you get an error that names the Keras layer.
* Every node keeps the name of its Keras layer (``metadata_props["keras_layer"]``).
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

from exporter.errors import ConversionError, WrongUse, first_line
from exporter.network import recurrent
from exporter.network.sources import Port, Source
from exporter.network.twin import float32_of
from exporter.passes import LAYER_KEY

OPSET = 18  # the newest opset that tf2onnx 1.17 writes
_WEIGHT = "weight_"


def to_onnx(source: Source, batch: int | None = None) -> ir.Model:
    """Translate a network.

    Args:
        source: the network to translate.
        batch: a fixed batch size; None leaves it open.

    Returns:
        A model in tf2onnx's layout: inputs and outputs as in Keras (NHWC), a Transpose on
        each side of a convolution, weights as initializers, constants not folded yet.

    Raises:
        ConversionError: an op has no ONNX counterpart. The message names the op and the layer.
    """
    batch = _agreed_batch(source, batch)
    recurrent.refuse_stateful(source)
    try:
        source = float32_of(source)
        graph_def, inputs, outputs, weights = _trace(source, batch)
    except Exception as error:  # the network's layers may raise anything
        raise ConversionError(
            f"TensorFlow can't trace {source.name}: {first_line(error)}"
        ) from error
    proto = _translate(graph_def, inputs, outputs, source)
    model = ir.from_proto(proto)
    for node in model.graph:
        layer = _layer_of(node.name or "", source.layers)
        if layer:
            node.metadata_props[LAYER_KEY] = layer
    _put_weights_back(model, weights)
    _name_ports(model, source, inputs, outputs, batch)
    model.producer_name = "exporter"
    return model


def _agreed_batch(source: Source, asked: int | None) -> int | None:
    """Return the batch size to trace with.

    Raises:
        WrongUse: the network has a fixed batch size, and the user requests another.
    """
    own = source.batch
    if own is not None and asked is not None and own != asked:
        raise WrongUse(f"{source.name} has a fixed batch size of {own}, but --batch is {asked}")
    return asked if own is None else own


def _trace(
    source: Source, batch: int | None
) -> tuple[Any, list[str], list[str], dict[str, np.ndarray[Any, Any]]]:
    """Return a graph without weights, its inputs and outputs, and the weights by tensor name."""
    import tensorflow as tf

    specs = [
        tf.TensorSpec((batch, *port.shape[1:]), port.dtype, name=f"port_{index}")
        for index, port in enumerate(source.inputs)
    ]
    concrete, values = _trace_keras(source, specs) if source.is_keras else (None, {})
    if concrete is None or recurrent.has_loop(concrete.graph.as_graph_def()):
        # tf2onnx needs the weights of a loop as constants.
        function = tf.function(lambda *x: source.call(x), autograph=False)
        concrete, values = function.get_concrete_function(*specs), {}
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    frozen = convert_variables_to_constants_v2(
        concrete, lower_control_flow=False, aggressive_inlining=True
    )
    graph_def = frozen.graph.as_graph_def(add_shapes=True)
    _allow_inlining(graph_def)
    inputs = [tensor.name for tensor in frozen.inputs]
    outputs = [tensor.name for tensor in frozen.outputs]
    if not values:
        values = _lift_constants(graph_def)
        inputs += list(values)
    return _inline(graph_def, inputs, outputs), inputs, outputs, values


def _inline(graph_def: Any, inputs: list[str], outputs: list[str]) -> Any:
    """Let grappler inline function calls and infer shapes. There is nothing else to fold."""
    import tensorflow as tf
    from tf2onnx import tf_loader

    with tf.Graph().as_default():  # grappler's interface works only on TensorFlow 1 graphs
        tf.import_graph_def(graph_def, name="")
        return tf_loader.tf_optimize(inputs, outputs, graph_def)


def _trace_keras(source: Source, specs: list[Any]) -> tuple[Any, dict[str, np.ndarray[Any, Any]]]:
    import keras
    import tensorflow as tf

    model = source.model
    trained, rest = model.trainable_variables, model.non_trainable_variables
    variables = [*trained, *rest]
    weight_specs = [
        tf.TensorSpec(tuple(v.shape), v.dtype, name=f"{_WEIGHT}{i}")
        for i, v in enumerate(variables)
    ]
    ports = len(specs)

    def stateless(*tensors: Any) -> Any:
        given, weights = tensors[:ports], tensors[ports:]
        results, _ = model.stateless_call(
            list(weights[: len(trained)]),
            list(weights[len(trained) :]),
            source.pack(given),
            training=False,
        )
        return [tf.identity(result) for result in keras.tree.flatten(results)]

    function = tf.function(stateless, input_signature=[*specs, *weight_specs], autograph=False)
    values = {f"{_WEIGHT}{i}:0": np.asarray(v.numpy()) for i, v in enumerate(variables)}
    return function.get_concrete_function(), values


def _allow_inlining(graph_def: Any) -> None:
    """Remove XLA marks, such as a grouped convolution's, so that grappler inlines the function."""
    for function in graph_def.library.function:
        for mark in ("_XlaMustCompile", "_noinline"):
            function.attr.pop(mark, None)
        for node in function.node_def:
            node.attr.pop("_XlaMustCompile", None)
    for node in graph_def.node:
        node.attr.pop("_XlaMustCompile", None)


def _lift_constants(graph_def: Any) -> dict[str, np.ndarray[Any, Any]]:
    """Turn the float tensors of a frozen graph into placeholders, as in a Keras trace.

    The weights of a loop stay constants.
    """
    import tensorflow as tf

    values = {}
    in_loops = recurrent.fed_to_loops(graph_def)
    for node in graph_def.node:
        if node.name in in_loops:
            continue
        if node.op != "Const" or node.attr["dtype"].type != tf.float32.as_datatype_enum:
            continue
        value = tf.make_ndarray(node.attr["value"].tensor)
        if value.size < 2:
            continue
        values[f"{node.name}:0"] = value
        dtype = node.attr["dtype"].type
        node.op = "Placeholder"
        node.attr.clear()
        node.attr["dtype"].type = dtype
        node.attr["shape"].shape.CopyFrom(tf.TensorShape(value.shape).as_proto())
    return values


def _translate(
    graph_def: Any, inputs: list[str], outputs: list[str], source: Source
) -> onnx.ModelProto:
    import tensorflow as tf
    from tf2onnx import tfonnx, utils

    utils.INTERNAL_NAME = 1  # reset this global counter, so that names are reproducible
    logger = logging.getLogger("tf2onnx")
    level = logger.level
    logger.setLevel(logging.CRITICAL)  # below, we raise errors instead of its log lines
    try:
        with tf.Graph().as_default() as graph:
            tf.import_graph_def(graph_def, name="")
            translated = tfonnx.process_tf_graph(
                graph, opset=OPSET, input_names=inputs, output_names=outputs
            )
            proto: onnx.ModelProto = translated.make_model(source.name)
    except (ValueError, KeyError, RuntimeError, AssertionError, TypeError) as error:
        raise ConversionError(f"tf2onnx failed on {source.name}: {first_line(error)}") from error
    finally:
        logger.setLevel(level)
    recurrent.drop_list_shapes(proto)
    _spell_out_erfc(proto)
    _refuse_unknown_ops(proto, source)
    return proto


def _spell_out_erfc(proto: onnx.ModelProto) -> None:
    """Replace erfc(x), which Keras' GELU uses and ONNX lacks, by 1 - erf(x)."""
    nodes = []
    for node in proto.graph.node:
        nodes.append(node)
        if node.op_type != "Erfc":
            continue
        out, one, erf = node.output[0], f"{node.name}/one", f"{node.name}/erf"
        proto.graph.initializer.append(onnx.numpy_helper.from_array(np.float32(1), one))
        node.CopyFrom(onnx.helper.make_node("Erf", node.input, [erf], name=erf))
        nodes.append(onnx.helper.make_node("Sub", [one, erf], [out], name=out))
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)


def _refuse_unknown_ops(proto: onnx.ModelProto, source: Source) -> None:
    """Refuse TensorFlow ops that tf2onnx left in the graph. It only logs them."""
    bad: dict[tuple[str, str], onnx.NodeProto] = {}
    nodes = [node for graph in recurrent.graphs_of(proto.graph) for node in graph.node]
    for node in nodes:
        known = node.domain in ("", "ai.onnx") and onnx.defs.has(node.op_type, OPSET)
        if not known:
            bad.setdefault((node.op_type, _layer_of(node.name, source.layers) or node.name), node)
    if bad:
        found = ", ".join(f"{op} in layer {layer!r}" for op, layer in bad)
        raise ConversionError(
            f"{source.name} can't be converted: {found}",
            hint="replace the layer; convolutions, dense, batch norm, pooling, add, concat and the "
            "usual activations can be converted",
        )


def _layer_of(node: str, layers: tuple[str, ...]) -> str | None:
    """Find the innermost Keras layer whose name is a scope in an op's name."""
    by_name = {layer.lower(): layer for layer in layers}  # TensorFlow capitalizes bare ops
    for part in reversed(node.lower().split("/")):
        # Keras opens a layer's scope twice, to build and to call it. So the ops of "conv" are in
        # "conv_1", which may also be another layer's name. If a layer is reused, the number grows.
        for name in (re.sub(r"_1$", "", part), part, re.sub(r"_\d+$", "", part)):
            if name in by_name:
                return by_name[name]
    # TensorFlow numbers bare ops by itself: that of the layer "cholesky_1" is "Cholesky".
    stem = re.sub(r"_\d+$", "", node.lower().split("/")[-1])
    alike = [layer for layer in layers if re.sub(r"_\d+$", "", layer.lower()) == stem]
    return alike[0] if len(alike) == 1 else None


def _put_weights_back(model: ir.Model, weights: dict[str, np.ndarray[Any, Any]]) -> None:
    kept = []
    for value in model.graph.inputs:
        if value.name in weights:
            value.const_value = ir.tensor(weights[value.name], name=value.name)
            if value.uses():
                model.graph.initializers[value.name] = value
        else:
            kept.append(value)
    model.graph.inputs[:] = kept


_IMAGE_AXES = {1: "height", 2: "width"}


def _dimensions(port: Port, value: ir.Value) -> Iterator[int | ir.SymbolicDim]:
    """Yield a port's sizes besides the batch; an open one is what tf2onnx inferred, or a name."""
    for axis, size in enumerate(port.shape[1:], 1):
        known = value.shape[axis] if value.shape and len(value.shape) == len(port.shape) else None
        name = _IMAGE_AXES.get(axis) if len(port.shape) == 4 else "steps" if axis == 1 else None
        inferred = known if isinstance(known, int) and known > 0 else None
        yield size or inferred or ir.SymbolicDim(name or f"{port.name}_{axis}")


def _name_ports(
    model: ir.Model, source: Source, inputs: list[str], outputs: list[str], batch: int | None
) -> None:
    graph = model.graph
    found = {value.name: value for value in graph.inputs}
    graph.inputs[:] = [found[name] for name in inputs[: len(source.inputs)]]
    found = {value.name: value for value in graph.outputs}
    graph.outputs[:] = [found[name] for name in outputs]
    size = ir.SymbolicDim("batch") if batch is None else batch
    for values, ports in ((graph.inputs, source.inputs), (graph.outputs, source.outputs)):
        for value, port in zip(values, ports, strict=True):
            value.name = port.name
            value.shape = ir.Shape([size, *_dimensions(port, value)])
