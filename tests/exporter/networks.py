"""Small Keras networks for tests: every kind of layer the design promises to convert."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np


def shake_statistics(model: Any, seed: int = 0) -> Any:
    """Give every batch norm statistics, scale and shift that a wrong fold can't survive."""
    rng = np.random.default_rng(seed)
    for variable in model.variables:
        kind = variable.path.rsplit("/", 1)[-1]
        if kind in ("moving_variance", "gamma"):
            variable.assign(rng.uniform(0.5, 1.5, variable.shape))
        elif kind in ("moving_mean", "beta", "bias"):
            variable.assign(rng.normal(0, 0.2, variable.shape))
    return model


def plain(keras: ModuleType, channels: int = 1, classes: int = 3) -> Any:
    """Conv, batch norm, ReLU, pooling, dense: 16x16 images to logits; always the same weights."""
    keras.utils.set_random_seed(0)
    layers = keras.layers
    x = inputs = keras.Input((16, 16, channels), name="input")
    x = layers.Conv2D(4, 3, padding="same", name="conv")(x)
    x = layers.BatchNormalization(name="bn")(x)
    x = layers.ReLU(name="relu")(x)
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    model = keras.Model(inputs, layers.Dense(classes, name="logits")(x))
    return shake_statistics(model)


def trained(keras: ModuleType, images: np.ndarray, labels: np.ndarray) -> Any:
    """Two convolutions with batch norm, trained until it tells the stripes apart.

    Args:
        images: uint8 (n, 16, 16, channels); the network takes them from 0 to 1.
        labels: of three classes.
    """
    keras.utils.set_random_seed(1)
    layers = keras.layers
    x = inputs = keras.Input(images.shape[1:], name="input")
    for name, width in (("first", 6), ("second", 8)):
        x = layers.Conv2D(width, 3, padding="same", name=name)(x)
        x = layers.BatchNormalization(momentum=0.8, name=f"bn_{name}")(x)
        x = layers.ReLU(name=f"relu_{name}")(x)
    x = layers.GlobalAveragePooling2D()(x)
    model = keras.Model(inputs, layers.Dense(3, name="head")(x))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(0.02), loss, jit_compile=False)
    model.fit(images / 255.0, labels, batch_size=32, epochs=12, verbose=0)
    return model


def signal(keras: ModuleType) -> Any:
    """Convolutions over time of every 1-D kind that Keras has, with three batch norms."""
    keras.utils.set_random_seed(0)
    layers = keras.layers
    inputs = keras.Input((32, 2))
    x = layers.Conv1D(8, 3, padding="same", use_bias=False)(inputs)
    x = skip = layers.ReLU()(layers.BatchNormalization()(x))
    x = layers.MaxPooling1D(2)(x)
    x = layers.ReLU()(layers.BatchNormalization()(layers.Conv1D(16, 3, padding="causal")(x)))
    x = layers.SeparableConv1D(16, 3, padding="same")(x)
    x = layers.AveragePooling1D(2)(x)
    x = layers.UpSampling1D(2)(layers.Activation("tanh")(x))
    x = layers.Conv1DTranspose(8, 2, strides=2)(x)
    x = layers.Add()([layers.BatchNormalization()(x), skip])
    x = layers.GlobalAveragePooling1D()(layers.Conv1D(8, 3, dilation_rate=2)(x))
    return shake_statistics(keras.Model(inputs, layers.Dense(3)(x)))


def decoder(keras: ModuleType) -> Any:
    """A small encoder and decoder: UpSampling2D of both kinds, and a skip connection."""
    keras.utils.set_random_seed(0)
    layers = keras.layers
    inputs = keras.Input((16, 16, 1))
    skip = layers.Conv2D(8, 3, padding="same", use_bias=False)(inputs)
    skip = layers.ReLU()(layers.BatchNormalization()(skip))
    x = layers.ReLU()(layers.Conv2D(16, 3, strides=4, padding="same")(skip))
    x = layers.UpSampling2D((2, 2))(x)
    x = layers.ReLU()(layers.Conv2D(8, 3, padding="same")(x))
    x = layers.UpSampling2D((2, 2), interpolation="bilinear")(x)
    x = layers.ReLU()(layers.Conv2D(8, 3, padding="same")(layers.Concatenate()([x, skip])))
    x = layers.GlobalAveragePooling2D()(x)
    return shake_statistics(keras.Model(inputs, layers.Dense(3)(x)))


def save(model: Any, path: Path) -> str:
    """Save as ``.keras``, or as a SavedModel where the path has no suffix."""
    if path.suffix:
        model.save(path)
    else:
        model.export(str(path), verbose=False)
    return str(path)


def many_layers(keras: ModuleType) -> tuple[Any, int]:
    """Return a network with one of nearly everything, and its count of foldable batch norms."""
    layers = keras.layers
    inputs = keras.Input((16, 16, 3), name="picture")
    x = layers.Rescaling(1 / 255)(inputs)
    x = layers.SeparableConv2D(8, 3, padding="same", use_bias=False)(x)
    x = layers.BatchNormalization()(x)  # folds into the pointwise convolution
    x = layers.Activation("relu6")(x)
    y = layers.Conv2DTranspose(8, 3, padding="same")(x)
    y = layers.BatchNormalization(epsilon=1e-5, scale=False)(y)  # folds
    y = layers.LeakyReLU()(y)
    z = layers.Concatenate()([x, y])
    z = layers.AveragePooling2D(2)(z)
    z = layers.DepthwiseConv2D(3, padding="same", depth_multiplier=2)(z)
    z = layers.BatchNormalization(center=False)(z)  # folds
    z = layers.Activation("hard_swish")(z)
    z = layers.Conv2D(32, 3, padding="same", groups=4, strides=2, use_bias=False)(z)
    z = layers.BatchNormalization()(z)  # folds
    z = layers.ZeroPadding2D(1)(z)
    z = layers.Conv2D(8, 3, dilation_rate=2, activation="gelu")(z)
    z = layers.BatchNormalization()(z)  # behind an activation: nothing to fold into
    z = layers.PReLU(shared_axes=[1, 2])(z)
    z = layers.UpSampling2D()(z)
    a = layers.Dense(5)(layers.GlobalMaxPooling2D()(z))
    b = layers.Dense(16, activation="silu")(layers.Flatten()(z))
    b = layers.Dense(5, use_bias=False)(b)
    b = layers.BatchNormalization()(b)  # folds into the dense layer
    total = layers.Add()([a, layers.Activation("tanh")(b)])
    return shake_statistics(keras.Model(inputs, total)), 5


def nested(keras: ModuleType) -> Any:
    """A model inside a model."""
    inner = plain(keras)
    inputs = keras.Input((16, 16, 1), name="outside")
    return keras.Model(inputs, keras.layers.Dense(2, name="head")(inner(inputs)))


def two_ports(keras: ModuleType) -> Any:
    """Two inputs and two outputs, with names of the user's."""
    layers = keras.layers
    left = keras.Input((8, 8, 1), name="left")
    right = keras.Input((8, 8, 1), name="right")
    x = layers.Conv2D(4, 3)(layers.Add()([left, right]))
    x = layers.Flatten()(x)
    outputs = [layers.Dense(2, name="age")(x), layers.Dense(3, name="kind")(x)]
    return keras.Model([left, right], outputs)


def with_cholesky(keras: ModuleType) -> Any:
    """A network with an op that ONNX does not have."""
    inputs = keras.Input((4, 4, 1))
    x = keras.ops.squeeze(inputs, -1)
    x = keras.ops.cholesky(keras.ops.matmul(x, keras.ops.transpose(x, (0, 2, 1))))
    return keras.Model(inputs, keras.layers.Dense(3)(keras.layers.Flatten()(x)))


def with_lambda(keras: ModuleType) -> Any:
    """A network that carries Python code."""
    inputs = keras.Input((16, 16, 1))
    x = keras.layers.Lambda(lambda t: t * 2.0, name="twice")(inputs)
    return keras.Model(inputs, keras.layers.Dense(3)(keras.layers.Flatten()(x)))
