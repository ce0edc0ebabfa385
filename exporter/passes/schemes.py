"""The INT8 schemes, as rows of one table: what a runtime wants quantised, and how."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from exporter.errors import unknown_name

# The values stay the same, only where they are changes.
LAYOUT = frozenset({"Flatten", "Reshape", "Squeeze", "Transpose", "Unsqueeze"})


@dataclass(frozen=True)
class Scheme:
    """How and where one family of runtimes wants INT8; weights are signed, per output channel.

    Attributes:
        name: as `--scheme` takes it.
        activation: dtype of activations. int8 is symmetric with zero point 0; uint8 is affine.
        inputs: ops whose activation inputs get a Q/DQ pair.
        outputs: ops whose output gets one, behind the activation function that fuses with them.
        shared: ops that only select or move elements: input and output share one scale.
        fused: activation functions that the runtime fuses with the linear node or Add before
            them, so that no pair may stand between.
        shortcut_only: on a residual Add, quantise the shortcut alone.
        int32_bias: store biases as INT32 with scale input_scale * weight_scale.
        reduce_range: use 7-bit weights. Without VNNI, x86 adds two products u8 * s8 in a
            saturating int16, which two of 255 * 64 just fit.
        quantize_last: also quantise the dense layers that no other linear node follows.
        float_weights: store weights as float, with a Q before the DQ, for parsers that take no
            INT8 initializer (TensorRT before 8.6).
    """

    name: str
    activation: Literal["int8", "uint8"]
    inputs: frozenset[str]
    outputs: frozenset[str]
    shared: frozenset[str]
    fused: frozenset[str]
    shortcut_only: bool
    int32_bias: bool
    reduce_range: bool = False
    quantize_last: bool = True
    float_weights: bool = False

    @property
    def symmetric(self) -> bool:
        """Whether the zero point is 0 throughout."""
        return self.activation == "int8"

    @property
    def dtype(self) -> np.dtype[np.generic]:
        """Of quantised activations."""
        return np.dtype(self.activation)

    @property
    def weight_max(self) -> int:
        """The largest quantised weight; the smallest is its negative."""
        return 64 if self.reduce_range else 127


# fmt: off
# TensorRT: docs.nvidia.com/deeplearning/tensorrt, "Explicit Quantization", and the ResNet case of
# NVIDIA's TensorFlow quantisation toolkit. Outputs follow from what the next layer reads.
_TENSORRT = Scheme(
    name="tensorrt",
    activation="int8",
    inputs=frozenset({
        "Add", "AveragePool", "Conv", "ConvTranspose", "Gemm", "GlobalAveragePool", "MatMul",
        "ReduceMean",
    }),
    outputs=frozenset(),
    shared=frozenset({"Concat", "MaxPool"}),
    fused=frozenset({
        "Clip", "Elu", "HardSigmoid", "HardSwish", "LeakyRelu", "Relu", "Selu", "Sigmoid",
        "Softplus", "Tanh",
    }),
    shortcut_only=True,
    int32_bias=False,
)
# onnxruntime: core/optimizer/qdq_transformer. A QGemm or MatMulIntegerToFloat gives float, so
# logits aren't rounded. It has no integer kernel for ConvTranspose and ReduceMean.
_CPU = Scheme(
    name="cpu",
    activation="uint8",
    inputs=frozenset({
        "Add", "AveragePool", "Conv", "Gemm", "GlobalAveragePool", "LeakyRelu", "MatMul", "Mul",
        "Sigmoid",
    }),
    outputs=frozenset({
        "Add", "AveragePool", "Conv", "GlobalAveragePool", "LeakyRelu", "Mul", "Sigmoid",
    }),
    shared=LAYOUT | {"Concat", "MaxPool"},
    fused=frozenset({"Clip", "Relu"}),
    shortcut_only=False,
    int32_bias=True,
)
# fmt: on

SCHEMES: dict[str, Scheme] = {scheme.name: scheme for scheme in (_TENSORRT, _CPU)}


def lookup(name: str, **options: bool) -> Scheme:
    """The scheme of that name, with options set.

    Args:
        name: a row of `SCHEMES`.
        options: `reduce_range`, `quantize_last` or `float_weights`.

    Raises:
        WrongUse: there is no such scheme.
    """
    if name not in SCHEMES:
        raise unknown_name("scheme", name, SCHEMES)
    # mypy takes the options for any field; the signature's `bool` says which are meant.
    return replace(SCHEMES[name], **options)  # type: ignore[arg-type]
