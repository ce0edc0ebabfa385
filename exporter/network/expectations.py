"""What a network expects of its inputs, as far as its layers tell: pixels of 0 to 255, tokens."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

_WIDEST = 16.0
"""Largest magnitude that we believe of scaled pixels; ``torch`` makes 2.6, one deviation 1."""

_KEEP_RANGE = (
    *("InputLayer", "Identity", "Dropout", "GaussianNoise", "GaussianDropout", "Reshape"),
    *("AugMix", "CutMix", "MixUp", "Resizing", "CenterCrop", "ZeroPadding2D"),
)


def pixels_expected(model: Any) -> str | None:
    """Return ``raw`` if the network begins with a scaling of pixels from 0 to 255.

    We look past what does nothing at inference (augmentation, dropout) and into nested networks. A
    scaling that would leave 255 far outside of the usual range, as it expects pixels from 0 to 1,
    tells nothing.
    """
    first: Any = next(_first_layers(model), None)
    kind = type(first).__name__
    if kind == "Rescaling":
        scaled = 255 * np.asarray(first.scale) + np.asarray(first.offset)
    elif kind == "Normalization" and first.mean is not None:
        deviation = np.sqrt(np.maximum(np.asarray(first.variance), 1e-12))
        scaled = (255 - np.asarray(first.mean)) / deviation
    else:
        return None
    return "raw" if np.abs(scaled).max() <= _WIDEST else None


@dataclass(frozen=True)
class Meaning:
    """What an input stands for, if the layers behind it tell.

    Attributes:
        tokens: how many tokens there are, if an Embedding reads it.
        masked: the value of a step that is to be ignored, if a Masking reads it.
    """

    tokens: int | None = None
    masked: float | None = None


UNKNOWN = Meaning()


def meanings(model: Any, inputs: Sequence[Any]) -> list[Meaning]:
    """Return the meaning of each input tensor, by the layers that read it directly."""
    import keras

    found: dict[int, Meaning] = {}
    for layer in model._flatten_layers(include_self=False):
        readers = [id(x) for node in layer._inbound_nodes for x in node.input_tensors]
        for key in readers:
            known = found.get(key, UNKNOWN)
            if isinstance(layer, keras.layers.Embedding):
                fewest = min(layer.input_dim, known.tokens or layer.input_dim)
                found[key] = replace(known, tokens=fewest)
            elif isinstance(layer, keras.layers.Masking):
                found[key] = replace(known, masked=layer.mask_value)
    return [found.get(id(tensor), UNKNOWN) for tensor in inputs]


def _first_layers(model: Any) -> Iterator[Any]:
    """Yield the layers in order, without those that keep the range of pixels at inference."""
    for layer in getattr(model, "layers", []):
        if _keeps_range(layer):
            continue
        if getattr(layer, "layers", None):
            yield from _first_layers(layer)
        else:
            yield layer


def _keeps_range(layer: Any) -> bool:
    return type(layer).__name__.startswith((*_KEEP_RANGE, "Random"))
