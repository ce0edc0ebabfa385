"""Record how the scales settle: the ranges a method would choose after so many images."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Snapshot:
    """The symmetric amax by tensor that the method would have chosen after so many images."""

    images: int
    amax: dict[str, float]

    def change(self, earlier: Snapshot) -> float:
        """Return the greatest relative change of any tensor's amax since another snapshot."""
        return self.most_changed(earlier)[0]

    def most_changed(self, earlier: Snapshot) -> tuple[float, str]:
        """Return the greatest relative change, 0 to 1, and the name of its tensor."""
        tiny = float(np.finfo(np.float32).tiny)
        return max(
            (abs(now - earlier.amax[name]) / max(now, earlier.amax[name], tiny), name)
            for name, now in self.amax.items()
        )


def summary(snapshots: Sequence[Snapshot]) -> list[dict[str, Any]]:
    """Return a row for each snapshot after the first: the greatest change since the last one."""
    rows = []
    for earlier, snapshot in itertools.pairwise(snapshots):
        change, tensor = snapshot.most_changed(earlier)
        rows.append({"images": snapshot.images, "change": round(change, 4), "tensor": tensor})
    return rows


def to_json(snapshots: Sequence[Snapshot]) -> dict[str, Any]:
    """Return ``{"images": [16, 32], "amax": {tensor: [1.5, 1.6]}}``."""
    names = snapshots[0].amax if snapshots else {}
    return {
        "images": [snapshot.images for snapshot in snapshots],
        "amax": {name: [snapshot.amax[name] for snapshot in snapshots] for name in names},
    }


def from_json(content: dict[str, Any]) -> tuple[Snapshot, ...]:
    """Read the result of :func:`to_json`.

    Raises:
        KeyError: a part is missing.
        TypeError: a part has the wrong type.
        ValueError: counts don't ascend, or a tensor lacks a finite amax for one of them.
    """
    images, amax = list(content["images"]), dict(content["amax"])
    whole = all(type(count) is int and count > 0 for count in images)
    if not whole or images != sorted(set(images)):
        raise ValueError("the image counts of the convergence don't ascend")
    for name, values in amax.items():
        numbers = np.asarray(values, np.float64)
        if numbers.shape != (len(images),) or not (np.isfinite(numbers) & (numbers >= 0)).all():
            raise ValueError(f"the convergence of {name!r} lacks one finite amax per snapshot")
    return tuple(
        Snapshot(count, {name: float(values[i]) for name, values in amax.items()})
        for i, count in enumerate(images)
    )
