"""Names and paths as a table shows them: short enough, and never broken in two."""

from __future__ import annotations

from collections.abc import Sequence


def shorten(names: Sequence[str], wanted: int, most: int) -> list[str]:
    """Shorten paths from the left: ``build/resnet18-ort`` becomes ``…/resnet18-ort``.

    Args:
        names: paths, or names without a slash; they may break at spaces.
        wanted: the longest word that there is room for; folders are dropped for it.
        most: the longest word that there can be room for; the start of a name is dropped for it.

    Returns:
        The short names; the given ones if two would look the same.
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
