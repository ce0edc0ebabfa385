"""The line that installs what an extra brings, for this package as it was installed here."""

from __future__ import annotations

import importlib.metadata
import json
import shlex
from urllib.parse import unquote, urlsplit


def pip_line(extras: str) -> str:
    """Return a command for a shell.

    Args:
        extras: as ``pyproject.toml`` has them, such as ``cpu`` or ``cpu,openvino``.

    Returns:
        With the folder that the package was installed from, where it was one (PEP 610): by its
        name alone pip would fetch whatever an index has under it.
    """
    what = f"{_origin() or 'exporter'}[{extras}]"
    return f"pip install {shlex.quote(what)}"


def _origin() -> str | None:
    try:
        record = importlib.metadata.distribution("exporter").read_text("direct_url.json")
        url = urlsplit(json.loads(record or "{}").get("url", ""))
    except (importlib.metadata.PackageNotFoundError, ValueError):
        return None
    return unquote(url.path) if url.scheme == "file" else None
