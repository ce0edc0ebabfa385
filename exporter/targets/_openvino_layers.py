"""Find the precision that OpenVINO really runs each layer in, which may differ from the file's.

Source: the runtime model, and its ``rt_info`` as defined in
openvino/runtime/exec_model_info.hpp. We don't use its ``runtimePrecision``: it is the narrowest
type of any input, so an FP32 kernel that unpacks FP16 weights reads ``f16``. The type of the
activations is what counts.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

COLUMNS = ("name", "type", "precision", "output", "kernel", "made_of")
# Names as in the CPU plugin. Other layers just pass on data in the type of their input.
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
        name: name of the node.
        type: the CPU plugin's name for its kind, such as ``Convolution``.
        precision: type of the activations that its kernel takes, such as ``u8`` or ``f32``.
        output: type of its output.
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
    """List the nodes that run for every batch, in execution order.

    Nodes that depend only on constants are left out, as they ran when the model was compiled.

    Args:
        runtime_model: the runtime model of a compiled model.
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
    """Describe the precision of layers that multiply, such as ``20 of 20 convolutions in u8``."""
    totals = Counter(layer.type for layer in layers)
    kinds = Counter((layer.type, layer.precision) for layer in layers)
    return [
        f"{count} of {totals[kind]} {_COMPUTE[kind]} in {precision}"
        for (kind, precision), count in sorted(kinds.items())
        if kind in _COMPUTE
    ]


def table(layers: list[Layer]) -> dict[str, Any]:
    """Return the layers as JSON values: the columns, and one row per layer."""
    rows = [
        [layer.name, layer.type, layer.precision, layer.output, layer.kernel, list(layer.made_of)]
        for layer in layers
    ]
    return {"columns": list(COLUMNS), "rows": rows}
