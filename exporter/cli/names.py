"""Shorten names and paths for tables, so that none of them breaks across lines."""

from __future__ import annotations

from collections.abc import Sequence


def shorten(names: Sequence[str], wanted: int, most: int) -> list[str]:
    """Shorten paths from the left: ``build/resnet18-ort`` becomes ``…/resnet18-ort``.

    Args:
        names: paths, or names without a slash; they may break at spaces.
        wanted: preferred maximum length of a word; leading folders are dropped to reach it.
        most: hard maximum length of a word; the start of a name is dropped to reach it.

    Returns:
        The short names, or the given names if two short ones would look the same.
    """
    short = []
    for name in names:
        parts = name.split("/")
        ways = [name, *("…/" + "/".join(parts[drop:]) for drop in range(1, len(parts)))]
        fitting = next((way for way in ways if longest_word(way) <= wanted), ways[-1])
        first, *rest = fitting.split(" ")
        if len(first) > most:
            first = "…" + first[1 - most :]
        short.append(" ".join([first, *rest]))
    return short if len(set(short)) == len(set(names)) else list(names)


def longest_word(name: str) -> int:
    """Return the length of the longest part that can't break at a space."""
    return max(map(len, name.split(" ")))
