"""Every error that a user can meet, with its exit code.

The codes are a contract (see docs/reference/cli.md): 0 done, 1 the work failed, 2 wrong use,
3 a check failed, 4 something needed is missing here.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from calibration.errors import Refusal


class ExporterError(Refusal):
    """The work failed. Base class of all errors that this package raises on purpose."""


class WrongUse(ExporterError):
    """The request itself is wrong: an unknown name, a conflict or a bad value."""

    exit_code = 2


class GateRefused(ExporterError):
    """The work was done, but a check that the user requested failed."""

    exit_code = 3


class Missing(ExporterError):
    """A library, a device or data is missing. The hint says how to get it."""

    exit_code = 4


class ConversionError(ExporterError):
    """The network can't be expressed in ONNX as requested. The message names the layer."""


def first_line(error: BaseException) -> str:
    """Return the first line of another library's error, or its type if it says nothing."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def unknown_name(kind: str, name: str, known: Iterable[str]) -> WrongUse:
    """Build the error for an unknown name, with the nearest names as a hint.

    Args:
        kind: what the name stands for, as a word for the message ("model").
        name: the unknown name.
        known: all valid names.
    """
    names = list(known)
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    if near:
        return WrongUse(f"unknown {kind} {name!r}", hint=f"did you mean: {', '.join(near)}?")
    return WrongUse(f"unknown {kind} {name!r}", hint=f"known: {', '.join(names)}")
