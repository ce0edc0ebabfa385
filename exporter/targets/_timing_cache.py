"""Keep TensorRT's layer timings, so that the next build doesn't measure them again.

Timings are valid for one GPU and one TensorRT release, so each pair has its own file. See
https://docs.nvidia.com/deeplearning/tensorrt/latest/performance/builder-performance.html
"""

from __future__ import annotations

import os
import re
from contextlib import suppress
from pathlib import Path

from calibration.whole_file import write_whole


def cache_file(version: str, gpu: str, compute_capability: str | None) -> Path:
    """Return the file's path below ``$XDG_CACHE_HOME``. The file may not exist yet."""
    home = os.environ.get("XDG_CACHE_HOME")
    base = Path(home) if home and Path(home).is_absolute() else Path.home() / ".cache"
    name = f"{version}-{gpu}-{compute_capability or 'unknown'}"
    return base / "exporter" / "timing" / f"{re.sub(r'[^A-Za-z0-9.]+', '-', name)}.cache"


def load(file: Path) -> bytes:
    """Return the timings; empty if there is no file."""
    try:
        return file.read_bytes()
    except OSError:
        return b""


def save(file: Path, timings: bytes) -> None:
    """Write the timings completely or not at all. If that fails, it is not an error."""
    with suppress(OSError):
        write_whole(file, timings)
