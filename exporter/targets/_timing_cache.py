"""Where TensorRT's layer timings are kept, so that the next build need not measure again.

Timings hold for one GPU and one TensorRT release only, hence a file for each pair. See
https://docs.nvidia.com/deeplearning/tensorrt/latest/performance/builder-performance.html
"""

from __future__ import annotations

import os
import re
from contextlib import suppress
from pathlib import Path

from calibration.whole_file import write_whole


def cache_file(version: str, gpu: str, compute_capability: str | None) -> Path:
    """Return the file's place below ``$XDG_CACHE_HOME``; it need not exist."""
    home = os.environ.get("XDG_CACHE_HOME")
    base = Path(home) if home and Path(home).is_absolute() else Path.home() / ".cache"
    name = f"{version}-{gpu}-{compute_capability or 'unknown'}"
    return base / "exporter" / "timing" / f"{re.sub(r'[^A-Za-z0-9.]+', '-', name)}.cache"


def load(file: Path) -> bytes:
    """Return the timings; none where there is no file."""
    try:
        return file.read_bytes()
    except OSError:
        return b""


def save(file: Path, timings: bytes) -> None:
    """Write the timings whole or not at all; a cache that can't be kept is no failure."""
    with suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        write_whole(file, timings)
