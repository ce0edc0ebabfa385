"""Hold a budget on the accuracy that INT8 or FP8 loses: the costliest layers stay in float.

The layers are chosen on the same held-out images that the drop is measured on, so the drop is
optimistic. Only the test set shows what an artifact is worth (`exporter evaluate`).
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
"""How many images to rank the layers on: noise is a sum over all logits, and settles early."""
_FEW = 5
"""Two runs of equal accuracy differ by about as many images: a smaller budget is chance."""


@dataclass(frozen=True)
class Fallback:
    """The result of `--max-drop`.

    Attributes:
        points: the budget, in points of top-1.
        images: how many held-out training images it was measured on.
        allowed: the budget in images.
        newly_wrong: how many images float classifies correctly and INT8 doesn't.
        newly_right: how many images INT8 classifies correctly and float doesn't.
        choice: the layers in float.
        followers: the nodes between them, which stay in float with them.
        sensitivity: of the layers. None if the budget holds with all of them in INT8.
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
        """The names of all nodes that stay in float."""
        return (*self.choice.keep, *self.followers)

    @property
    def warnings(self) -> list[str]:
        """Warnings for a reader of the figures."""
        if self.allowed >= _FEW:
            return []
        return [
            f"--max-drop {self.points:g} is {self.allowed} of {self.images:,} held-out images: "
            "chance alone can move as many. Use more --held-out-images"
        ]

    def as_json(self) -> dict[str, Any]:
        """Return what the passport records about it."""
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
    """Choose the layers that stay in float, so that at most `points` of top-1 are lost.

    Args:
        trials: the calibrated graph.
        images: training images, neither calibrated on nor in the test set.
        points: the budget in percentage points of top-1, against the float graph on the same
            images.
        progress: called for each graph that is tried.

    Raises:
        GateRefused: the budget does not hold, even with one layer left in INT8. The error says
            how close it came.
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
        f"--max-drop {points:g} ({allowed} of {images:,} images) can't be held: the closest of "
        f"{choice.trials} graphs loses {100 * choice.lost / images:.2f} points ({choice.lost} "
        f"images), with {len(choice.keep)} of {len(trials.layers)} layers in float: {names}",
        hint="allow a larger drop, or try another --calibrator or more --calibration-images; "
        "if nothing helps, this network needs --precision fp32",
    )
