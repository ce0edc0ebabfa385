"""Where results go. The folder may be missing, but it must be possible to make it."""

from __future__ import annotations

import os
from pathlib import Path

from exporter.errors import WrongUse


def check_parent(path: Path) -> None:
    """Refuse a path that can't be written, before any work begins.

    Args:
        path: a file or folder to write. Its missing parent folders are made when it is written.

    Raises:
        WrongUse: the nearest parent that exists is a file, or this user can't write to it.
    """
    nearest = next(parent for parent in path.absolute().parents if parent.exists())
    if not nearest.is_dir():
        raise WrongUse(f"can't write {path}: {nearest} is a file", hint="choose another with -o")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise WrongUse(
            f"can't write {path}: you may not write to {nearest}", hint="choose another with -o"
        )
