"""Rank the layers of a network by the loss when each alone is quantized; draw the result."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from calibration.sensitivity import LayerCost, rank
from exporter.data.held_out import HeldOut
from exporter.errors import WrongUse
from exporter.output import check_parent
from exporter.precision.trials import Trials

if TYPE_CHECKING:
    from exporter.progress import Progress

PICTURES = (".png", ".svg", ".pdf")
_BLUE, _ORANGE = "#0072b2", "#e69f00"  # safe for every form of color blindness (Okabe, Ito)
_INCHES_A_BAR, _MARGIN_INCHES = 0.2, 1.2
_LONGEST_NAME = 40


@dataclass(frozen=True)
class Sensitivity:
    """The layers and the loss from each, the costliest first.

    Attributes:
        scheme: where Q/DQ went.
        reduce_range: whether weights have 7 bits.
        images: how many images it was measured on.
        layers: the loss of the logits when only that layer is quantized.
        keras_layers: the Keras layer behind each, if known.
        warnings: of the calibration and the choice of images.
    """

    scheme: str
    reduce_range: bool
    images: int
    layers: tuple[LayerCost, ...]
    keras_layers: dict[str, str]
    warnings: tuple[str, ...] = ()

    def rows(self) -> dict[str, dict[str, Any]]:
        """Return one JSON object per layer, by node."""
        total = sum(cost.macs for cost in self.layers) or 1
        return {
            cost.name: {
                "node": cost.name,
                "keras_layer": self.keras_layers.get(cost.name),
                "sqnr_db": cost.sqnr_db if math.isfinite(cost.noise) and cost.noise else None,
                "noise": cost.noise if math.isfinite(cost.noise) else None,
                "label_flips": cost.flips,
                "macs": cost.macs,
                "macs_share": cost.macs / total,
            }
            for cost in self.layers
        }

    def as_json(self) -> dict[str, Any]:
        """Return all of it, as ``--json`` prints it and as an artifact's ``sensitivity.json``.

        ``{"scheme", "reduce_range", "images", "layers": [{"node", "keras_layer" (or null),
        "sqnr_db" (null if nothing changed or the logits were not finite), "noise" (energy of the
        error divided by the energy of the logits; null if not finite), "label_flips", "macs" (per
        image), "macs_share" (0 to 1)}, ...], "warnings"}``, with the costliest layer first.
        """
        return {
            "scheme": self.scheme,
            "reduce_range": self.reduce_range,
            "images": self.images,
            "layers": list(self.rows().values()),
            "warnings": list(self.warnings),
        }


def measure(trials: Trials, images: HeldOut, progress: Progress) -> Sensitivity:
    """Quantize each linear layer alone, and compare the logits with the float graph's.

    Args:
        trials: the calibrated graph.
        images: neither calibrated on nor in the test set, because the result decides on layers.
        progress: called for each layer.
    """
    costs = rank(
        trials.macs(images),
        trials.float_logits(images),
        lambda layer: trials.logits_alone(layer, images),
        progress,
    )
    scheme = trials.scheme
    return Sensitivity(
        scheme.name, scheme.reduce_range, len(images), tuple(costs), trials.keras_layers
    )


def check_picture(path: Path) -> None:
    """Refuse the path of a picture before any work is done.

    Raises:
        WrongUse: the suffix is no kind of picture, or it can't be written there.
    """
    if path.suffix.lower() not in PICTURES:
        raise WrongUse(
            f"can't tell which kind of picture {path} is",
            hint=f"use a name that ends in {', '.join(PICTURES)}",
        )
    check_parent(path)


def draw(result: Sensitivity, path: Path) -> None:
    """Draw the layers as bars, the costliest on top: SQNR, with label flips beside it."""
    from matplotlib.figure import Figure

    names = [_short(result.keras_layers.get(cost.name, cost.name)) for cost in result.layers]
    height = _MARGIN_INCHES + _INCHES_A_BAR * len(names)
    figure = Figure(figsize=(9, max(height, 2.2)), layout="constrained")
    noise, flips = figure.subplots(1, 2, sharey=True, width_ratios=(3, 1))
    places = range(len(names))
    noise.barh(places, _bars(result.layers), color=_BLUE)
    noise.set_yticks(places, names, fontsize=8)
    noise.set(xlabel="SQNR of the logits (dB): shorter is worse", ylim=(len(names) - 0.4, -0.6))
    flips.barh(places, [cost.flips for cost in result.layers], color=_ORANGE)
    flips.set_xlabel(f"label flips of {result.images}")
    flips.set_xlim(0, max(1, *(cost.flips for cost in result.layers)) * 1.05)
    flips.xaxis.get_major_locator().set_params(integer=True)
    for axes in (noise, flips):
        axes.grid(axis="x", alpha=0.3)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(
        f"Each layer quantized alone: scheme {result.scheme}, {result.images} held-out images"
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)


def _bars(layers: tuple[LayerCost, ...]) -> list[float]:
    """Return SQNR in dB; if nothing changed, as long as the longest; if nothing is left, zero."""
    longest = max((cost.sqnr_db for cost in layers if math.isfinite(cost.sqnr_db)), default=1.0)
    return [max(min(cost.sqnr_db, longest), 0.0) for cost in layers]


def _short(name: str) -> str:
    return name if len(name) <= _LONGEST_NAME else f"...{name[-_LONGEST_NAME + 3 :]}"
