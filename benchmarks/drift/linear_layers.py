"""The convolutions and dense layers of an artifact, and under which names engines run them."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from exporter.artifact import folder as artifact
from exporter.artifact.folder import Artifact
from exporter.errors import ExporterError

if TYPE_CHECKING:
    import onnx_ir as ir

# What engines add to the names of the ONNX nodes that they fuse into one of their own.
_ADDED = re.compile(
    r"(_token_\d+|_quant|_nchwc|/WithoutBiases|/DequantizationMultiply|/MatMulAddFusion)+$"
)
# What may be part of the node before it, and give that its name.
_FUSED = ("Add", "Relu", "Clip", "QuantizeLinear")


@dataclass(frozen=True)
class Linear:
    """A convolution or dense layer of the graph.

    Attributes:
        multiply_adds: of an image.
        weights: how many.
        what: its kernel and the shape of its output.
        aliases: names that an engine may give it, the likeliest first.
    """

    multiply_adds: int
    weights: int
    what: str
    aliases: tuple[str, ...]


def linear_layers(one: Artifact) -> dict[str, Linear]:
    """Return the convolutions and dense layers of ``model.onnx`` by name, in its order."""
    import onnx_ir as ir
    from onnx_ir.passes import common

    model = ir.load(one.file(artifact.MODEL))
    common.ShapeInferencePass()(model)
    linears = (node for node in model.graph if node.op_type in ("Conv", "Gemm", "MatMul"))
    return {node.name or str(node.outputs[0].name): _linear(node) for node in linears}


def name_layers(engine: Sequence[str], linears: Mapping[str, Linear]) -> dict[str, str]:
    """Find each linear layer among the names of an engine's nodes.

    Returns:
        The layer by the engine's name.

    Raises:
        ExporterError: one is not there, or two are the same node.
    """
    stripped = {_ADDED.sub("", name): name for name in engine}
    found: dict[str, str] = {}
    for layer, linear in linears.items():
        name = next((stripped[alias] for alias in linear.aliases if alias in stripped), None)
        if name is None or name in found:
            raise ExporterError(f"the engine does not say how long it takes in {layer}")
        found[name] = layer
    return found


def _linear(node: ir.Node) -> Linear:
    from exporter.precision.trials import multiply_adds

    shape, weight = node.outputs[0].shape, node.inputs[1]
    assert shape is not None
    assert weight is not None
    assert weight.shape is not None
    sizes = [size if isinstance(size, int) else 1 for size in shape]  # only the batch is open
    kernel = "x".join(map(str, weight.shape.numpy()[2:]))
    grouped = "grouped " if node.attributes.get_int("group", 1) > 1 else ""
    what = f"{grouped}{kernel} to {'x'.join(map(str, sizes[1:]))}" if kernel else "dense"
    weights = math.prod(weight.shape.numpy())
    return Linear(multiply_adds(node, sizes), weights, what, tuple(_aliases(node)))


def _aliases(node: ir.Node) -> Iterator[str]:
    while True:
        yield str(node.name)
        (output,) = node.outputs
        yield str(output.name)
        behind = list(output.consumers())
        if len(behind) != 1 or behind[0].op_type not in _FUSED:
            return
        node = behind[0]
