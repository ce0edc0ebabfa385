"""The same Keras network in another floating-point type.

A network in ``mixed_float16`` becomes an FP32 graph through its float32 twin. A float64 twin tells
how exact Keras itself is: its error is about 1e9 times smaller than float32's.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from exporter.network.sizes import usual_shape
from exporter.network.sources import Port, Source, wrap

_HALF = frozenset({"float16", "bfloat16"})


def float32_of(source: Source) -> Source:
    """Return a network that computes in float32: the same one, if it does so already.

    Raises:
        Exception: whatever its own classes raise when they are made again.
    """
    return twin_of(source, "float32") if computes_in_half(source) else source


def computes_in_half(source: Source) -> bool:
    """Return whether some layer computes in float16 or bfloat16. Unknown for SavedModels: no."""
    layers = source.model._flatten_layers() if source.is_keras else ()
    return any(getattr(layer, "compute_dtype", None) in _HALF for layer in layers)


def twin_of(source: Source, dtype: Literal["float32", "float64"]) -> Source:
    """Make the network again under another dtype policy, with the same weights.

    Raises:
        Exception: whatever its own classes raise when they are made again.
    """
    model = source.model
    classes = {type(layer).__name__: type(layer) for layer in model._flatten_layers()}
    config = _with_policy(model.get_config(), dtype)
    with _default_policy(dtype):  # for the layers that a layer makes by itself
        made = type(model).from_config(config, custom_objects=classes)
        if not made.built:  # a subclassed model learns its shapes from data
            made(source.pack(tuple(map(_zeros, itertools.repeat(source), source.inputs))))
    other = {layer.compute_dtype for layer in made._flatten_layers()} - {dtype}
    if other:
        raise TypeError(f"some layers insist on {', '.join(sorted(other))}")
    for to, value in zip(made.variables, model.variables, strict=True):
        to.assign(value.numpy().astype(to.dtype))
    twin = wrap(made, source.name, source.kind, source.weights, source.sha256)
    return replace(source, model=made, call=twin.call, pack=twin.pack, outputs=twin.outputs)


def _zeros(source: Source, port: Port) -> npt.NDArray[Any]:
    return np.zeros((port.shape[0] or 1, *usual_shape(source, port)), port.dtype)


@contextlib.contextmanager
def _default_policy(dtype: str) -> Iterator[None]:
    import keras

    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(dtype)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def _with_policy(config: Any, dtype: str) -> Any:
    """Replace every dtype policy in a configuration."""
    if isinstance(config, Mapping):
        if config.get("class_name") == "DTypePolicy":
            return {**config, "config": {"name": dtype}}
        return {key: _with_policy(value, dtype) for key, value in config.items()}
    if isinstance(config, (list, tuple)):
        return type(config)(_with_policy(value, dtype) for value in config)
    return config
