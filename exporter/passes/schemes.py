"""The schemes for INT8 and FP8, as rows of one table: what a runtime needs quantized, and how."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np

from calibration.formats import FORMATS, Format, FormatName
from exporter.config import PRECISION_OF, Precision, SchemeName
from exporter.errors import unknown_name

# These ops move values but don't change them.
LAYOUT = frozenset({"Flatten", "Reshape", "Squeeze", "Transpose", "Unsqueeze"})


@dataclass(frozen=True)
class ConvLimits:
    """The convolutions that a runtime has kernels for; the others stay in float.

    Attributes:
        largest_filter: most weights of one filter in one input channel, such as 9 for 3x3.
        fewest_channels: fewest channels of input and of output.
        multiple: input and output channels must have the same remainder modulo this, so that one
            padding serves both.
        grouped: whether there are kernels for grouped and depthwise convolutions.
    """

    largest_filter: int
    fewest_channels: int
    multiple: int
    grouped: bool

    def refusal(self, shape: tuple[int, ...], groups: int) -> str | None:
        """Return why a convolution has to stay in float; None if it doesn't.

        Args:
            shape: shape of its weight, (outputs, inputs per group, height, width).
            groups: number of groups of the convolution.
        """
        outputs, inputs, *kernel = shape
        size, sides = int(np.prod(kernel)), "x".join(map(str, kernel))
        if groups > 1 and not self.grouped:
            return f"a convolution in {groups} groups has no FP8 kernel in TensorRT"
        if size > self.largest_filter:
            return f"a {sides} filter is over {self.largest_filter} weights: no FP8 kernel"
        if min(outputs, inputs) < self.fewest_channels:
            least = self.fewest_channels
            return f"{inputs} to {outputs} channels: FP8 kernels need at least {least}"
        if outputs % self.multiple != inputs % self.multiple:
            return f"{inputs} to {outputs} channels can't be padded alike to {self.multiple}s"
        return None


@dataclass(frozen=True)
class Scheme:
    """Where and how a family of runtimes uses 8 bits; weights are signed, per output channel.

    Attributes:
        name: the name for `--scheme`.
        activation: dtype of activations. uint8 is affine; the others have no zero point.
        weight: dtype of weights.
        inputs: ops whose activation inputs get a Q/DQ pair.
        outputs: ops whose output gets a pair, after the activation function that fuses with them.
        shared: ops that only select or move elements: input and output share one scale.
        fused: activation functions that the runtime fuses with the linear node or Add before
            them, so that no pair may stand between.
        shortcut_only: on a residual Add, quantize only the shortcut.
        int32_bias: store biases as INT32 with scale input_scale * weight_scale.
        reduce_range: use 7-bit weights. Without VNNI, x86 adds two products u8 * s8 in a
            saturating int16. Two products of 255 * 64 just fit.
        quantize_last: also quantize the dense layers that no other linear node follows.
        float_weights: store weights as float, with a Q before the DQ, for parsers that don't
            read INT8 initializers (TensorRT before 8.6).
        convolutions: the convolutions that it has kernels for; None for all.
        opset: the first opset whose Q and DQ support its types.
        rest: type of the nodes that stay in floating point, unless the user chooses another; None
            for the target's default.
        refuses: calibrators and recovery methods that make no sense for it, with the reason.
    """

    name: SchemeName
    activation: FormatName
    inputs: frozenset[str]
    outputs: frozenset[str]
    shared: frozenset[str]
    fused: frozenset[str]
    shortcut_only: bool
    int32_bias: bool
    reduce_range: bool = False
    quantize_last: bool = True
    float_weights: bool = False
    weight: FormatName = "int8"
    convolutions: ConvLimits | None = None
    opset: int = 13
    rest: Literal["fp16"] | None = None
    refuses: Mapping[str, str] = field(default_factory=dict)

    @property
    def precision(self) -> Precision:
        """The precision that it belongs to."""
        return PRECISION_OF[self.name]

    @property
    def symmetric(self) -> bool:
        """Whether all zero points are 0."""
        return self.activation != "uint8"

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype of quantized activations."""
        return numpy_dtype(self.activation)

    @property
    def weight_dtype(self) -> np.dtype[Any]:
        """The dtype of quantized weights."""
        return numpy_dtype(self.weight)

    @property
    def activations(self) -> Format:
        """The number format of activations."""
        return FORMATS[self.activation]

    @property
    def weights(self) -> Format:
        """The number format of weights."""
        row = FORMATS[self.weight]
        return replace(row, largest=64) if self.reduce_range else row


def numpy_dtype(name: FormatName) -> np.dtype[Any]:
    """Return the dtype of a format; FP8's comes from `ml_dtypes`, which onnx depends on."""
    import ml_dtypes  # noqa: F401  registers it

    return np.dtype(name)


# fmt: off
# TensorRT: docs.nvidia.com/deeplearning/tensorrt, "Explicit Quantization", and the ResNet case of
# NVIDIA's TensorFlow quantization toolkit. An output is quantized if the next layer needs that.
_TENSORRT = Scheme(
    name="tensorrt",
    activation="int8",
    inputs=frozenset({
        "Add", "AveragePool", "Conv", "ConvTranspose", "Gemm", "GlobalAveragePool", "MatMul",
        "ReduceMean",
    }),
    outputs=frozenset(),
    shared=frozenset({"Concat", "MaxPool", "Resize"}),
    fused=frozenset({
        "Clip", "Elu", "HardSigmoid", "HardSwish", "LeakyRelu", "Relu", "Selu", "Sigmoid",
        "Softplus", "Tanh",
    }),
    shortcut_only=True,
    int32_bias=False,
)
# onnxruntime: core/optimizer/qdq_transformer. A QGemm or MatMulIntegerToFloat returns float, so
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
    shared=LAYOUT | {"Concat", "MaxPool", "Resize"},
    fused=frozenset({"Clip", "Relu"}),
    shortcut_only=False,
    int32_bias=True,
)
# TensorRT's FP8 is E4M3 ("Quantization Schemes" in its documentation). What stays in float, and
# which ops get a pair at all, follow NVIDIA's Model Optimizer (modelopt/onnx/quantization/fp8.py:
# Conv, Gemm, MatMul and the residual Add; channels a multiple of 16, at most 32 weights a filter)
# and the release notes of TensorRT 10.12 ("no optimized FP8 Convolutions for Group Convolutions
# and Depthwise Convolutions"). Pooling has no FP8 form ("Pooling", Data Types), so no pair is put
# around it. TensorRT-RTX 1.7 builds all of these; see docs/concepts/schemes.md.
_FP8 = Scheme(
    name="fp8",
    activation="float8_e4m3fn",
    weight="float8_e4m3fn",
    inputs=frozenset({"Add", "Conv", "Gemm", "MatMul"}),
    outputs=frozenset(),
    shared=frozenset({"Concat"}),
    fused=_TENSORRT.fused,
    shortcut_only=True,
    int32_bias=False,
    convolutions=ConvLimits(largest_filter=32, fewest_channels=16, multiple=16, grouped=False),
    opset=19,
    rest="fp16",
    refuses={
        "entropy": "it assumes evenly spaced levels, and FP8's are not",
        "equalize": "it evens out ranges for evenly spaced levels, but FP8 is equally precise in "
        "any range",
    },
)
# fmt: on

SCHEMES: dict[str, Scheme] = {scheme.name: scheme for scheme in (_TENSORRT, _CPU, _FP8)}


def lookup(name: str, **options: bool) -> Scheme:
    """Return the scheme of that name, with options set.

    Args:
        name: a row of `SCHEMES`.
        options: `reduce_range`, `quantize_last` or `float_weights`.

    Raises:
        WrongUse: there is no such scheme.
    """
    if name not in SCHEMES:
        raise unknown_name("scheme", name, SCHEMES)
    # mypy checks the options against all fields, but only the bool ones are meant.
    return replace(SCHEMES[name], **options)  # type: ignore[arg-type]
