"""Measure what quantizing each layer alone costs, and choose layers to keep in float.

This module knows arrays and callables only. The caller passes in a function that runs the graph
with some layers quantized.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from calibration.errors import CalibrationError

Logits = npt.NDArray[Any]
Lost = Callable[[frozenset[str]], int]

STAGE = "sensitivity"


class Progress(Protocol):
    """The same signature as ``exporter.progress.Progress``."""

    def __call__(self, stage: str, done: int, total: int, note: str = "") -> None:
        """Report ``done`` of ``total`` layers."""


@dataclass(frozen=True)
class LayerCost:
    """The error in the logits when one layer alone is quantized.

    Attributes:
        name: the layer's name.
        noise: energy of the logits' error divided by that of the logits, 0 (none) to infinity.
        flips: images where another logit became the largest.
        macs: multiply-adds per image, the price of leaving the layer in float.
    """

    name: str
    noise: float
    flips: int
    macs: int

    @property
    def sqnr_db(self) -> float:
        """Signal-to-quantization-noise ratio of the logits in dB; infinite if nothing changed."""
        return sqnr_db(self.noise)


def sqnr_db(noise: float) -> float:
    """Return 10 log10(signal / noise) for a noise-to-signal ratio of energies."""
    return -10 * math.log10(noise) if noise else math.inf


def noise_ratio(reference: Logits, candidate: Logits) -> float:
    """Return sum((reference - candidate)^2) / sum(reference^2), in float64.

    Args:
        reference: logits of the float graph, (images, classes).
        candidate: logits of the graph to judge, in the same shape.

    Raises:
        CalibrationError: the reference is not finite, or all zero.
    """
    expected, got = reference.astype(np.float64), candidate.astype(np.float64)
    signal = float(np.square(expected).sum())
    if not (np.isfinite(signal) and signal > 0):
        raise CalibrationError("the float graph's logits are all zero, or some are NaN or infinite")
    noise = float(np.square(expected - got).sum())
    return noise / signal if np.isfinite(noise) else float("inf")


def rank(
    macs: Mapping[str, int],
    reference: Logits,
    quantize_alone: Callable[[str], Logits],
    progress: Progress,
) -> list[LayerCost]:
    """Quantize every layer by itself, and return the costs, highest first.

    Args:
        macs: multiply-adds per image by layer name.
        reference: logits of the float graph, (images, classes).
        quantize_alone: returns the logits on the same images with this one layer quantized.
        progress: called after each layer.
    """
    best, costs = reference.argmax(-1), []
    for done, (name, price) in enumerate(macs.items()):
        progress(STAGE, done, len(macs), name)
        logits = quantize_alone(name)
        flips = int((logits.argmax(-1) != best).sum())
        costs.append(LayerCost(name, noise_ratio(reference, logits), flips, price))
    progress(STAGE, len(macs), len(macs))
    return sorted(costs, key=lambda cost: -cost.noise)


@dataclass(frozen=True)
class Choice:
    """The layers to leave in float.

    Attributes:
        keep: their names, those that cost the most accuracy first.
        lost: images lost with them; negative if the quantized graph gets more right.
        lost_without: for each layer in `keep`, the images lost when it too is quantized.
        trials: how many graphs were measured.
    """

    keep: tuple[str, ...]
    lost: int
    lost_without: Mapping[str, int] = field(default_factory=dict)
    trials: int = 1


def choose(costs: Iterable[LayerCost], allowed: int, lost: Lost) -> Choice:
    """Find the fewest, cheapest layers to leave in float so that at most `allowed` images are lost.

    The noise of different layers nearly adds up, so two orders are tried: by noise, which needs
    the fewest layers, and by noise per multiply-add, which costs the least time. In each order, a
    binary search finds how many layers from the front are needed, and the cheaper set is taken.
    Then each of its layers is quantized again, the one with the most multiply-adds first, and
    stays quantized if the budget still holds. So each layer of the result is needed. Another set
    may still be cheaper: to rule that out would take 2^layers trials. At least one layer is always
    quantized.

    Args:
        costs: costs of every layer that could be left in float.
        allowed: maximum number of images to lose.
        lost: returns the images lost with these layers in float; called once per set.

    Returns:
        The choice. If no tried set holds the budget, it is the one that came closest, and its
        ``lost`` is over ``allowed``.
    """
    layers = {cost.name: cost for cost in sorted(costs, key=lambda cost: -cost.noise)}
    seen: dict[frozenset[str], int] = {}

    def measure(keep: Collection[str]) -> int:
        key = frozenset(keep)
        if key not in seen:
            seen[key] = lost(key)
        return seen[key]

    def price(keep: Collection[str]) -> tuple[int, int]:
        return sum(layers[name].macs for name in keep), len(keep)

    by_noise = list(layers)
    by_value = sorted(layers, key=lambda name: -layers[name].noise / max(layers[name].macs, 1))
    fronts = [_front(order[:-1], allowed, measure) for order in (by_noise, by_value)]
    holding = [keep for keep in fronts if measure(keep) <= allowed]
    if not holding:
        closest = min(seen, key=lambda keep: (seen[keep], price(keep)))
        return Choice(_ordered(closest, layers), seen[closest], trials=len(seen))
    cheapest = min(holding, key=price)
    keep, lost_without = set(cheapest), {}
    for name in sorted(keep, key=lambda name: -layers[name].macs):
        without = measure(keep - {name})
        if without <= allowed:
            keep.remove(name)
        else:
            lost_without[name] = without
    return Choice(_ordered(keep, layers), measure(keep), lost_without, len(seen))


def _front(order: list[str], allowed: int, measure: Callable[[Collection[str]], int]) -> list[str]:
    """Return the shortest front of the order that holds the budget, found by binary search."""
    if measure([]) <= allowed:
        return []
    low, high = 0, len(order)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if measure(order[:middle]) <= allowed else (middle, high)
    return order[:high]


def _ordered(keep: Collection[str], layers: Mapping[str, LayerCost]) -> tuple[str, ...]:
    return tuple(name for name in layers if name in keep)
