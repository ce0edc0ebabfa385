"""The same Keras network in another floating-point type.

A network in ``mixed_float16`` becomes an FP32 graph through its float32 twin. A float64 twin tells
how exact Keras itself is: its error is about 1e9 times smaller than float32's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

from exporter.network.sources import Source, wrap

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
    made = type(model).from_config(config, custom_objects=classes)
    for to, value in zip(made.variables, model.variables, strict=True):
        to.assign(value.numpy().astype(to.dtype))
    renamed = wrap(made, source.name, source.kind, source.weights, source.sha256)
    return replace(renamed, preprocessing=source.preprocessing, classes=source.classes)


def _with_policy(config: Any, dtype: str) -> Any:
    """Replace every dtype policy in a configuration."""
    if isinstance(config, Mapping):
        if config.get("class_name") == "DTypePolicy":
            return {**config, "config": {"name": dtype}}
        return {key: _with_policy(value, dtype) for key, value in config.items()}
    if isinstance(config, (list, tuple)):
        return type(config)(_with_policy(value, dtype) for value in config)
    return config
