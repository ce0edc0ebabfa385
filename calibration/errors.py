"""Errors of the calibration, and the base class of all errors that this project raises.

The base class is here because imports go one way: ``exporter.errors`` builds on it.
"""

from __future__ import annotations


class Refusal(Exception):
    """An error that is shown to the user without a trace: message, hint and exit code.

    Attributes:
        message: what went wrong.
        hint: how to fix it; None if no fix is known.
        exit_code: exit code of the command line (see docs/reference/cli.md).
    """

    exit_code = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        """Store the message and the hint."""
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        """Return the message, then the hint on a line of its own."""
        return self.message if self.hint is None else f"{self.message}\n{self.hint}"


class CalibrationError(Refusal):
    """Calibration failed. Base class of all errors that this package raises."""


class WrongRequest(CalibrationError):
    """The request is wrong: an unknown tensor or method, or a bad value."""

    exit_code = 2


class NoData(CalibrationError):
    """There are no calibration images, or fewer than requested."""

    exit_code = 4


class NotFinite(CalibrationError):
    """A value is NaN or infinite, so no range can be measured.

    ``index`` is the flat (C order) position in the observed array.
    """

    def __init__(self, message: str, *, index: int = 0, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.index = index


class OverlapsEvaluation(CalibrationError):
    """Calibration images are also in the evaluation set, so its accuracy would be too high."""

    exit_code = 2


class DamagedParams(CalibrationError):
    """A calibration file can't be read: it isn't ours, or is cut short, edited, or too new."""


class WrongParams(CalibrationError):
    """A calibration was made for another graph or another preprocessing."""

    exit_code = 2
