"""What OpenVINO really executes each layer in, which differs from what a file says.

Source: the runtime model, and its ``rt_info`` as openvino/runtime/exec_model_info.hpp defines
it. Its ``runtimePrecision`` is not used: it is the narrowest type of any input, so that an FP32
kernel that unpacks FP16 weights reads ``f16``. What the activations come in is what counts.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

COLUMNS = ("name", "type", "precision", "output", "kernel", "made_of")
# As the CPU plugin names them; the others are moved along in whatever type comes in.
_COMPUTE = {
    "Convolution": "convolutions",
    "Deconvolution": "transposed convolutions",
    "FullyConnected": "dense layers",
    "MatMul": "matrix products",
}
_NOT_EXECUTED = ("Const", "Input", "Output")


@dataclass(frozen=True)
class Layer:
    """One node of the graph that OpenVINO executes.

    Attributes:
        name: of the node.
        type: what it is to the CPU plugin, such as ``Convolution``.
        precision: of the activations that its kernel takes, such as ``u8`` or ``f32``.
        output: what it gives.
        kernel: the implementation, such as ``jit_avx2_I8``.
        made_of: the nodes of the IR that were fused into it.
    """

    name: str
    type: str
    precision: str
    output: str
    kernel: str
    made_of: tuple[str, ...]


def executed_layers(runtime_model: Any) -> list[Layer]:
    """List the nodes that run with every batch, in the order of their execution.

    Args:
        runtime_model: of a compiled model; what depends on constants alone is left out, as
            it ran when the model was compiled.
    """
    constant: set[str] = set()
    layers = []
    for node in runtime_model.get_ordered_ops():
        info = {key: str(value.value) for key, value in node.get_rt_info().items()}
        name = node.get_friendly_name()
        inputs = node.input_values()
        sources = [port.get_node().get_friendly_name() for port in inputs]
        if info["layerType"] == "Const" or (sources and constant.issuperset(sources)):
            constant.add(name)
        elif info["layerType"] not in _NOT_EXECUTED:
            taken = inputs[0].get_element_type().get_type_name() if inputs else "none"
            layers.append(_layer(name, taken, info))
    return layers


def _layer(name: str, taken: str, info: dict[str, str]) -> Layer:
    made_of = info.get("originalLayersNames", "")
    return Layer(
        name,
        info["layerType"],
        taken,
        info["outputPrecisions"],
        info["primitiveType"],
        tuple(part for part in made_of.split(",") if part),
    )


def summary(layers: list[Layer]) -> list[str]:
    """Say in what the layers that multiply run: ``20 of 20 convolutions in u8``."""
    totals = Counter(layer.type for layer in layers)
    kinds = Counter((layer.type, layer.precision) for layer in layers)
    return [
        f"{count} of {totals[kind]} {_COMPUTE[kind]} in {precision}"
        for (kind, precision), count in sorted(kinds.items())
        if kind in _COMPUTE
    ]


def table(layers: list[Layer]) -> dict[str, Any]:
    """Return the layers as JSON values: columns, and one row a layer."""
    rows = [
        [layer.name, layer.type, layer.precision, layer.output, layer.kernel, list(layer.made_of)]
        for layer in layers
    ]
    return {"columns": list(COLUMNS), "rows": rows}
