"""List the convolutions and dense layers of an artifact, and find their names in engines."""

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

# Engines add these to the names of the ONNX nodes that they fuse.
_ADDED = re.compile(
    r"(_token_\d+|_quant|_nchwc|/WithoutBiases|/DequantizationMultiply|/MatMulAddFusion)+$"
)
# These may be fused into the node before them, which then may take their name.
_FUSED = ("Add", "Relu", "Clip", "QuantizeLinear")


@dataclass(frozen=True)
class Linear:
    """A convolution or dense layer of the graph.

    Attributes:
        multiply_adds: number of multiply-adds per image.
        weights: number of weights.
        what: its kernel and the shape of its output.
        aliases: names that an engine may give it, the most likely first.
    """

    multiply_adds: int
    weights: int
    what: str
    aliases: tuple[str, ...]


def linear_layers(one: Artifact) -> dict[str, Linear]:
    """Return the convolutions and dense layers of ``model.onnx`` by name, in graph order."""
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
        ExporterError: a layer is not found, or two layers match the same node.
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
    sizes = [size if isinstance(size, int) else 1 for size in shape]  # only the batch may vary
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
