"""How long-running work reports its progress, without knowing who displays it."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Called while work goes on. The command line draws bars from it; tests ignore it."""

    def __call__(self, stage: str, done: int, total: int, note: str = "") -> None:
        """Report one step.

        Args:
            stage: name of the stage; each stage gets one bar.
            done: number of finished units; ``done == total`` ends the stage.
            total: total number of units.
            note: a few words shown after the bar, such as the loss.
        """


def silent(stage: str, done: int, total: int, note: str = "") -> None:
    """Report nothing."""
