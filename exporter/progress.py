"""How long work reports how far it is, without knowing who shows it."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Called as work goes on; the command line draws bars from it, tests ignore it."""

    def __call__(self, stage: str, done: int, total: int, note: str = "") -> None:
        """Report one step.

        Args:
            stage: what is being done; one bar a stage.
            done: units finished; ``done == total`` ends the stage.
            total: units in all.
            note: a few words shown behind the bar, such as the loss.
        """


def silent(stage: str, done: int, total: int, note: str = "") -> None:
    """Report nothing."""
