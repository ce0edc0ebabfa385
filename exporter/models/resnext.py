"""ResNeXt (Xie et al. 2016, arXiv:1611.05431): a bottleneck whose 3x3 convolution is grouped."""

from __future__ import annotations

from keras import layers

from exporter.models.resnet import Tensor, add_relu, conv_bn


def resnext_block(
    x: Tensor,
    filters: int,
    *,
    groups: int,
    bottleneck: float = 1.0,
    strides: int = 1,
    project: bool | None = None,
    name: str = "block",
) -> Tensor:
    """Build 1x1, grouped 3x3 and 1x1 convolutions, each with batch norm, with a shortcut.

    Args:
        x: (batch, height, width, channels).
        filters: output channels.
        groups: groups of the 3x3 convolution ("cardinality").
        bottleneck: channels of the inner convolutions as a fraction of ``filters``.
        strides: strides of the grouped convolution and of the shortcut.
        project: whether the shortcut is a 1x1 convolution with batch norm; by default only if
            the shape changes.
        name: prefix of the layer names.

    Returns:
        (batch, ceil(height/strides), ceil(width/strides), filters).

    Raises:
        ValueError: the number of inner channels isn't a multiple of ``groups``.
    """
    inner = round(filters * bottleneck)
    if inner % groups:
        raise ValueError(f"{inner} inner channels can't be split into {groups} groups")
    if project is None:
        project = strides != 1 or x.shape[-1] != filters
    shortcut = conv_bn(x, filters, 1, strides=strides, name=f"{name}_shortcut") if project else x
    y = layers.ReLU(name=f"{name}_1_relu")(conv_bn(x, inner, 1, name=f"{name}_1"))
    y = conv_bn(y, inner, 3, strides=strides, groups=groups, name=f"{name}_2")
    y = layers.ReLU(name=f"{name}_2_relu")(y)
    return add_relu(conv_bn(y, filters, 1, name=f"{name}_3"), shortcut, name)
