"""The Keras original on the GPU: on JAX, compiled by XLA, or on PyTorch, by torch.compile."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.gpu_acceptance import skeleton
from benchmarks.gpu_acceptance.parts import Device
from exporter.errors import Missing
from exporter.models import zoo

Call = Callable[["np.typing.NDArray[np.float32]"], Any]


@dataclass(frozen=True)
class Original:
    """A network that is ready to be called.

    Attributes:
        call: from (batch, height, width, channels) float32 to logits, numpy arrays both.
        settings: Keras' version, its backend, and the compiler.
    """

    call: Call
    settings: dict[str, Any]


def open_original(network: str, device: Device) -> Original:
    """Build a network on the backend that sees the GPU.

    Args:
        network: a zoo name with shipped weights, or :data:`skeleton.NAME` with random ones.
        device: to run it on.

    Raises:
        Missing: no installed backend sees that device.
    """
    backend = _backend(device)
    os.environ["KERAS_BACKEND"] = backend
    import keras

    if network == skeleton.NAME:
        size, channels, classes = skeleton.SIZE, skeleton.CHANNELS, skeleton.CLASSES
        model = zoo.build(skeleton.NETWORK, image_size=size, channels=channels, classes=classes)
    else:
        model = keras.models.load_model(zoo.lookup(network).checkpoint, compile=False)
    call, how = {"jax": _on_jax, "torch": _on_torch}[backend](model)
    return Original(call, {"keras": keras.__version__, "backend": backend, "compiled": how})


def _backend(device: Device) -> str:
    """Choose JAX if it is installed and sees the device, or else PyTorch."""
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    if importlib.util.find_spec("jax"):
        import jax

        if device == "cpu" or jax.default_backend() == "gpu":
            return "jax"
    if importlib.util.find_spec("torch"):
        import torch

        if device == "cpu" or torch.cuda.is_available():
            return "torch"
    raise Missing("neither JAX nor PyTorch is here with a GPU", hint="pip install 'jax[cuda13]'")


def _on_jax(model: Any) -> tuple[Call, str]:
    import jax

    trainable = [variable.value for variable in model.trainable_variables]
    rest = [variable.value for variable in model.non_trainable_variables]

    def compute(images: Any) -> Any:
        outputs, _ = model.stateless_call(trainable, rest, images, training=False)
        return outputs

    forward = jax.jit(compute)
    return lambda images: np.asarray(forward(images)), "jax.jit"


def _on_torch(model: Any) -> tuple[Call, str]:
    import torch

    place = "cuda" if torch.cuda.is_available() else "cpu"
    forward = torch.compile(lambda images: model(images, training=False))

    def call(images: Any) -> Any:
        with torch.inference_mode():
            return forward(torch.from_numpy(images).to(place)).cpu().numpy()

    return call, "torch.compile"
