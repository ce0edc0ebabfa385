"""What calibration can refuse, and the shape that every error on purpose of this project has.

The shape is here because imports go one way: ``exporter.errors`` builds on it.
"""

from __future__ import annotations


class Refusal(Exception):
    """What a user is shown instead of a trace: a message, how to fix it, and an exit code.

    Attributes:
        message: what went wrong.
        hint: how to fix it; None where nobody knows.
        exit_code: what the command line ends with (see README).
    """

    exit_code = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        """Keep what went wrong and, on lines of its own, how to fix it."""
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        """Return the message and the hint."""
        return self.message if self.hint is None else f"{self.message}\n{self.hint}"


class CalibrationError(Refusal):
    """Calibration failed. Base of all errors raised on purpose by this package."""


class WrongRequest(CalibrationError):
    """The request itself is at fault: an unknown tensor or method, a bad value."""

    exit_code = 2


class NoData(CalibrationError):
    """No calibration images, or fewer than asked for."""

    exit_code = 4


class NotFinite(CalibrationError):
    """NaN or an infinity where a range was to be measured.

    ``index`` is the flat (C order) position in the array that was observed.
    """

    def __init__(self, message: str, *, index: int = 0, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.index = index


class OverlapsEvaluation(CalibrationError):
    """Calibration images are also in the evaluation set, so its accuracy would flatter."""

    exit_code = 2


class DamagedParams(CalibrationError):
    """A calibration file can't be read: not ours, cut short, edited, or from a newer version."""


class WrongParams(CalibrationError):
    """A calibration was made for another graph or another preprocessing."""

    exit_code = 2
