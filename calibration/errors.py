"""What calibration can refuse; the command line treats these like the exporter's own errors.

``message``, ``hint`` and ``exit_code`` mean the same as in ``exporter.errors``, which this
package may not import.
"""

from __future__ import annotations


class CalibrationError(Exception):
    """Calibration failed. Base of all errors raised on purpose by this package."""

    exit_code = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        """Keep what went wrong and, on lines of its own, how to fix it."""
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        """Return the message and the hint."""
        return self.message if self.hint is None else f"{self.message}\n{self.hint}"


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
