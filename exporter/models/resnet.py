"""ResNet (He et al. 2015, arXiv:1512.03385) as plain Keras functional graphs.

These use only stock Keras layers. So a saved model loads with
``keras.models.load_model(path)`` on any machine, without this package and without a
custom-object argument.

Shapes are NHWC throughout; all arithmetic is float32.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
from keras import layers

Tensor = Any  # keras.KerasTensor; Keras ships no types
Block = Callable[..., Tensor]

# Better for short schedules than Keras' 0.99, with which statistics lag by hundreds of steps.
BN_MOMENTUM = 0.9


def conv(
    x: Tensor, filters: int, size: int, *, strides: int = 1, groups: int = 1, name: str
) -> Tensor:
    """Convolve with 'same' padding, a bias and He initialization."""
    return layers.Conv2D(
        filters,
        size,
        strides=strides,
        padding="same",
        groups=groups,
        kernel_initializer="he_normal",
        name=name,
    )(x)


def conv_bn(
    x: Tensor, filters: int, size: int, *, strides: int = 1, groups: int = 1, name: str
) -> Tensor:
    """Convolve, then normalize. The layers are named ``{name}_conv`` and ``{name}_bn``."""
    x = conv(x, filters, size, strides=strides, groups=groups, name=f"{name}_conv")
    return layers.BatchNormalization(momentum=BN_MOMENTUM, name=f"{name}_bn")(x)


def add_relu(branch: Tensor, shortcut: Tensor, name: str) -> Tensor:
    """End a residual block."""
    return layers.ReLU(name=f"{name}_relu")(layers.Add(name=f"{name}_add")([branch, shortcut]))


def residual_block(x: Tensor, filters: int, *, strides: int = 1, name: str = "block") -> Tensor:
    """Build two 3x3 convolutions with a shortcut, as in ResNet-18 and 34.

    Args:
        x: (batch, height, width, channels).
        filters: output channels.
        strides: strides of the first convolution and of the shortcut.
        name: prefix of the layer names.

    Returns:
        (batch, ceil(height/strides), ceil(width/strides), filters). If the shape changes, the
        shortcut is a 1x1 convolution without batch norm, otherwise the identity.
    """
    shortcut = x
    if strides != 1 or x.shape[-1] != filters:
        shortcut = conv(x, filters, 1, strides=strides, name=f"{name}_shortcut_conv")
    y = layers.ReLU(name=f"{name}_1_relu")(
        conv_bn(x, filters, 3, strides=strides, name=f"{name}_1")
    )
    return add_relu(conv_bn(y, filters, 3, name=f"{name}_2"), shortcut, name)


def bottleneck_block(x: Tensor, filters: int, *, strides: int = 1, name: str = "block") -> Tensor:
    """Build 1x1, 3x3 and 1x1 convolutions with a shortcut, as in ResNet-50 and deeper.

    Args:
        x: (batch, height, width, channels).
        filters: output channels; the inner convolutions have a quarter of them.
        strides: strides of the 3x3 convolution (the "v1.5" placement) and of the shortcut.
        name: prefix of the layer names.

    Returns:
        The same as :func:`residual_block`.
    """
    shortcut = x
    if strides != 1 or x.shape[-1] != filters:
        shortcut = conv(x, filters, 1, strides=strides, name=f"{name}_shortcut_conv")
    inner = filters // 4
    y = layers.ReLU(name=f"{name}_1_relu")(conv_bn(x, inner, 1, name=f"{name}_1"))
    y = layers.ReLU(name=f"{name}_2_relu")(conv_bn(y, inner, 3, strides=strides, name=f"{name}_2"))
    return add_relu(conv_bn(y, filters, 1, name=f"{name}_3"), shortcut, name)


def four_stages(
    block: Block,
    depths: Sequence[int],
    widths: Sequence[int],
    *,
    image_size: int,
    channels: int,
    classes: int,
    name: str,
) -> keras.Model:
    """Build the template that every zoo model shares: stem, four stages, head.

    Args:
        block: called as ``block(x, filters, strides=, name=)``.
        depths: number of blocks in each of the four stages.
        widths: output channels of each stage.
        image_size: height and width of the input, in pixels.
        channels: channels of the input.
        classes: number of classes.
        name: name of the model.

    Returns:
        A model from (batch, image_size, image_size, channels) to logits (batch, classes).
    """
    inputs = keras.Input((image_size, image_size, channels), name="input")
    x = conv_bn(inputs, 64, 7, strides=2, name="stem")
    x = layers.ReLU(name="stem_relu")(x)
    x = layers.MaxPooling2D(3, strides=2, padding="same", name="stem_pool")(x)
    for stage, (depth, width) in enumerate(zip(depths, widths, strict=True), start=1):
        for index in range(1, depth + 1):
            strides = 2 if stage > 1 and index == 1 else 1
            x = block(x, width, strides=strides, name=f"stage{stage}_block{index}")
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    return keras.Model(inputs, layers.Dense(classes, name="logits")(x), name=name)
