"""Write the files in this folder. They need tf_keras 2.21 (Keras 2), and TensorFlow 2.21."""

import sys

import numpy as np
import tensorflow as tf
import tf_keras as keras

folder = sys.argv[1]
keras.utils.set_random_seed(0)
layers = keras.layers
x = inputs = keras.Input((8, 8, 1), name="image")
x = layers.Conv2D(2, 3, name="conv")(x)
x = layers.ReLU(name="relu")(layers.BatchNormalization(name="bn")(x))
x = layers.GlobalAveragePooling2D(name="pool")(x)
model = keras.Model(inputs, layers.Dense(3, name="head")(x))
model.compile(keras.optimizers.legacy.Adam(), "mse")
rng = np.random.default_rng(0)
model.fit(rng.random((8, 8, 8, 1)), rng.random((8, 3)), verbose=0)
model.save(f"{folder}/whole.h5")
model.save(f"{folder}/with_optimizer")
model.save_weights(f"{folder}/weights.h5")
keras.Model(inputs, tf.nn.relu(x) + 1.0).save(f"{folder}/operations.h5")
model.save(f"{folder}/whole.keras")
