"""Every error a user can meet, with the exit code it ends in.

The codes are a contract (see README): 0 done, 1 the work failed, 2 wrong use,
3 a gate said no, 4 something needed is missing here.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from calibration.errors import Refusal


class ExporterError(Refusal):
    """The work failed. Base of all errors raised on purpose by this package."""


class WrongUse(ExporterError):
    """The request itself is at fault: an unknown name, a conflict, a bad value."""

    exit_code = 2


class GateRefused(ExporterError):
    """The work was done and a check that was asked for said no."""

    exit_code = 3


class Missing(ExporterError):
    """A library, a device or data is not here; the hint says how to get it."""

    exit_code = 4


class ConversionError(ExporterError):
    """The network can't be expressed in ONNX as asked; names the layer at fault."""


def unknown_name(kind: str, name: str, known: Iterable[str]) -> WrongUse:
    """Build the error for a misspelt name, nearest names first.

    Args:
        kind: what the name stands for, as it reads in a sentence ("model").
        name: what was asked for.
        known: all valid names.
    """
    names = list(known)
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    if near:
        return WrongUse(f"unknown {kind} {name!r}", hint=f"did you mean: {', '.join(near)}?")
    return WrongUse(f"unknown {kind} {name!r}", hint=f"known: {', '.join(names)}")
