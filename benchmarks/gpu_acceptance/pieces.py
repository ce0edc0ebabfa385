"""Cut one file into pieces that a transfer tool accepts. `start` joins them again."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from exporter.errors import WrongUse
from exporter.progress import Progress, silent

MIB = 1 << 20
_CHUNK = MIB
_MOST = 999  # names have three digits


def name(index: int) -> str:
    """Name a piece; the first has index 0. `start.PIECE` matches it."""
    return f"kit.{index:03d}"


def cut(
    archive: Path, folder: Path, piece_bytes: int, progress: Progress = silent
) -> list[dict[str, Any]]:
    """Write a file's pieces into a folder.

    Returns:
        One row per piece, in order: ``name``, ``bytes`` and ``sha256``.

    Raises:
        WrongUse: there would be more pieces than names.
    """
    whole = archive.stat().st_size
    count = -(-whole // piece_bytes)
    if count > _MOST:
        raise WrongUse(
            f"{whole} bytes would be {count} pieces of {piece_bytes}, but {_MOST} is the most",
            hint="choose larger pieces with --piece-mib",
        )
    rows = []
    with archive.open("rb") as opened:
        for index in range(count):
            left, digest = piece_bytes, hashlib.sha256()
            with (folder / name(index)).open("wb") as piece:
                while left and (chunk := opened.read(min(left, _CHUNK))):
                    digest.update(chunk)
                    piece.write(chunk)
                    left -= len(chunk)
            written = piece_bytes - left
            rows.append({"name": name(index), "bytes": written, "sha256": digest.hexdigest()})
            progress("cut into pieces", index + 1, count)
    return rows
