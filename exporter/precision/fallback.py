"""Keep a budget on the accuracy that INT8 or FP8 loses: the layers that cost most stay in float.

Layers are chosen, and the drop is measured, on the same held-out images, which flatters it: what
an artifact is worth is for the test set to say, afterwards (`exporter evaluate`).
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from calibration.sensitivity import Choice, choose
from exporter.data.held_out import HeldOut
from exporter.errors import GateRefused
from exporter.precision.sensitivity import Sensitivity, measure
from exporter.precision.trials import Trials

if TYPE_CHECKING:
    from exporter.progress import Progress

RANKED_ON = 256
"""Images the layers are ranked on: noise is a sum over all logits, and settles early."""
_FEW = 5
"""A budget of fewer images is about what two runs of equal accuracy differ by."""


@dataclass(frozen=True)
class Fallback:
    """What `--max-drop` led to.

    Attributes:
        points: the budget, in points of top-1.
        images: how many held-out training images it was measured on.
        allowed: images the budget comes to.
        newly_wrong: images that float classifies correctly, and INT8 doesn't.
        newly_right: the reverse.
        choice: the layers in float.
        followers: what lies between them, and is in float for that.
        sensitivity: of the layers; None where all of them hold the budget in INT8.
    """

    points: float
    images: int
    allowed: int
    newly_wrong: int
    newly_right: int
    choice: Choice
    followers: tuple[str, ...] = ()
    sensitivity: Sensitivity | None = None

    @property
    def nodes(self) -> tuple[str, ...]:
        """All nodes to leave in float."""
        return (*self.choice.keep, *self.followers)

    @property
    def warnings(self) -> list[str]:
        """What a reader of the figures should know."""
        if self.allowed >= _FEW:
            return []
        return [
            f"--max-drop {self.points:g} is {self.allowed} of {self.images:,} held-out images: "
            "chance alone moves as many (more with --held-out-images)"
        ]

    def as_json(self) -> dict[str, Any]:
        """Return what the passport records of it."""
        costs = {} if self.sensitivity is None else self.sensitivity.rows()
        lost = self.newly_wrong - self.newly_right
        return {
            "points": self.points,
            "images": self.images,
            "images_are": "training images, neither calibrated on nor in the test set",
            "resolution_points": 100 / self.images,
            "allowed_images": self.allowed,
            "lost_images": lost,
            "lost_points": 100 * lost / self.images,
            "newly_wrong": self.newly_wrong,
            "newly_right": self.newly_right,
            "graphs_tried": self.choice.trials,
            "kept": [
                {**costs[name], "lost_images_without": self.choice.lost_without[name]}
                for name in self.choice.keep
            ],
            "also_float": list(self.followers),
        }


def hold_budget(trials: Trials, images: HeldOut, points: float, progress: Progress) -> Fallback:
    """Choose what stays in float so that at most `points` of top-1 are lost.

    Args:
        trials: the calibrated graph.
        images: training images, neither calibrated on nor in the test set.
        points: percentage points of top-1, against the float graph on the same images.
        progress: told of every graph that is tried.

    Raises:
        GateRefused: it does not hold with a single layer left in INT8; says how close it came.
    """
    reference = trials.float_logits(images)
    right = reference.argmax(-1) == images.labels
    allowed = int(points / 100 * len(images) + 1e-9)  # 0.07% of 10,000 is 7.000000000000001
    tried = 0

    @cache
    def outcome(layers: frozenset[str]) -> tuple[int, int]:
        nonlocal tried
        kept = f"{len(layers)} of {len(trials.layers)} layers in float"
        progress("max-drop", tried, tried + 1, kept)
        logits = trials.logits(trials.with_followers(layers), images)
        now = logits.argmax(-1) == images.labels
        tried += 1
        return int((right & ~now).sum()), int((~right & now).sum())

    def lost(layers: frozenset[str]) -> int:
        newly_wrong, newly_right = outcome(layers)
        return newly_wrong - newly_right

    choice, sensitivity = Choice((), lost(frozenset())), None
    if choice.lost > allowed:
        few = images.first(min(RANKED_ON, len(images)))
        sensitivity = measure(trials.before_recovery, few, progress)
        choice = choose(sensitivity.layers, allowed, lost)
    progress("max-drop", tried, tried)
    if choice.lost > allowed:
        raise _refusal(choice, trials, len(images), points, allowed)
    followers = _followers(trials, choice.keep)
    counts = outcome(frozenset(choice.keep))
    return Fallback(points, len(images), allowed, *counts, choice, followers, sensitivity)


def _followers(trials: Trials, keep: Collection[str]) -> tuple[str, ...]:
    return tuple(sorted(trials.with_followers(keep) - {*keep}))


def _refusal(
    choice: Choice, trials: Trials, images: int, points: float, allowed: int
) -> GateRefused:
    names = ", ".join(trials.keras_layers.get(name, name) for name in choice.keep) or "none"
    return GateRefused(
        f"--max-drop {points:g} ({allowed} of {images:,} images) does not hold: the closest of "
        f"{choice.trials} graphs loses {100 * choice.lost / images:.2f} points ({choice.lost} "
        f"images), with {len(choice.keep)} of {len(trials.layers)} layers in float: {names}",
        hint="allow more, or try another --calibrator or more --calibration-images; "
        "where nothing helps, this network needs --precision fp32",
    )
