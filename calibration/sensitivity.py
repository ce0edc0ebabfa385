"""What quantizing each layer alone costs, and the cheapest layers to spare for a budget to hold.

Knows arrays and callables only: who runs a graph with some layers in integers passes that in.
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
    """What the logits lose when one layer alone is quantized.

    Attributes:
        name: of the layer.
        noise: energy of the logits' error by that of the logits, 0 (none) to infinity.
        flips: images whose largest logit moved.
        macs: multiply-adds an image, the price of leaving the layer in float.
    """

    name: str
    noise: float
    flips: int
    macs: int

    @property
    def sqnr_db(self) -> float:
        """Signal to quantization noise of the logits in dB; infinite where nothing changed."""
        return sqnr_db(self.noise)


def sqnr_db(noise: float) -> float:
    """Return 10 log10(signal / noise) of a noise-to-signal ratio of energies."""
    return -10 * math.log10(noise) if noise else math.inf


def noise_ratio(reference: Logits, candidate: Logits) -> float:
    """Return sum((reference - candidate)^2) / sum(reference^2), in float64.

    Args:
        reference: logits of the float graph, (images, classes).
        candidate: of the graph to judge, the same shape.

    Raises:
        CalibrationError: the reference is not finite, or zero throughout.
    """
    expected, got = reference.astype(np.float64), candidate.astype(np.float64)
    signal = float(np.square(expected).sum())
    if not (np.isfinite(signal) and signal > 0):
        raise CalibrationError("the float graph's logits are all zero, or not finite")
    noise = float(np.square(expected - got).sum())
    return noise / signal if np.isfinite(noise) else float("inf")


def rank(
    macs: Mapping[str, int],
    reference: Logits,
    quantize_alone: Callable[[str], Logits],
    progress: Progress,
) -> list[LayerCost]:
    """Quantize every layer by itself; the costliest comes first.

    Args:
        macs: multiply-adds an image of each layer, by its name.
        reference: logits of the float graph, (images, classes).
        quantize_alone: the logits on the same images with this one layer quantized.
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
    """Which layers to leave in float.

    Attributes:
        keep: their names, costliest in accuracy first.
        lost: images lost with them; negative where the quantized graph has more right.
        lost_without: for each of `keep`, what was lost when it went back to integers.
        trials: how many graphs were measured.
    """

    keep: tuple[str, ...]
    lost: int
    lost_without: Mapping[str, int] = field(default_factory=dict)
    trials: int = 1


def choose(costs: Iterable[LayerCost], allowed: int, lost: Lost) -> Choice:
    """Find the fewest, cheapest layers to leave in float so that at most `allowed` images are lost.

    Noise of different layers adds up, nearly, so two orders are tried: by noise, which needs the
    fewest layers, and by noise per multiply-add, which spends the least time. In each, a binary
    search finds how many from the front are needed; the cheaper set is taken. Then each layer is
    tried in integers again, the one with the most multiply-adds first, and goes back where the
    budget still holds. So no layer of the result could be left out by itself; that no other set
    is cheaper is not proven, for that takes 2^layers trials. Never all layers are left in float.

    Args:
        costs: of every layer that could be left in float.
        allowed: images.
        lost: images lost with these layers in float; called once for each set.

    Returns:
        The choice. Where ``lost > allowed`` no set that was tried holds, and it is the one that
        came closest.
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
    """Return the shortest front of the order that holds, as far as binary search can tell."""
    if measure([]) <= allowed:
        return []
    low, high = 0, len(order)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if measure(order[:middle]) <= allowed else (middle, high)
    return order[:high]


def _ordered(keep: Collection[str], layers: Mapping[str, LayerCost]) -> tuple[str, ...]:
    return tuple(name for name in layers if name in keep)
