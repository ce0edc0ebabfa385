"""Write a file whole or not at all.

It is here because imports go one way: ``exporter`` and ``benchmarks`` write by it too.
"""

from __future__ import annotations

import os
from pathlib import Path


def write_whole(path: Path, content: str | bytes) -> None:
    """Write a file under another name, then move it to its place.

    Missing parent folders are made. If anything stops that, an old file stays as it was. The other
    name is a random one: in a stranger's folder, a known name may be a link to somewhere else.

    Raises:
        OSError: it can't be written there.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}-{os.urandom(8).hex()}.part")
    try:
        with part.open("xb") as file:
            file.write(content if isinstance(content, bytes) else content.encode())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
