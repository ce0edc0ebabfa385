"""Build the pip command that installs an extra from the source of this installation."""

from __future__ import annotations

import importlib.metadata
import json
import shlex
from typing import Any
from urllib.parse import unquote, urlsplit


def pip_line(extras: str) -> str:
    """Return a shell command that installs extras.

    Args:
        extras: names from ``pyproject.toml``, such as ``cpu`` or ``cpu,openvino``.

    Returns:
        The command, with the folder, file or URL that the package was installed from, if any
        (PEP 610). With only the name, pip would install whatever the index has under that name.
    """
    record = _origin()
    url = urlsplit(record.get("url", ""))
    what = f"exporter[{extras}]"
    if url.scheme == "file":
        what = f"{unquote(url.path)}[{extras}]"
    elif url.scheme:
        vcs = record.get("vcs_info", {})
        at = f"@{vcs['commit_id']}" if "commit_id" in vcs else ""
        what += f" @ {vcs['vcs'] + '+' if 'vcs' in vcs else ''}{record['url']}{at}"
    return f"pip install {shlex.quote(what)}"


def _origin() -> dict[str, Any]:
    try:
        record = importlib.metadata.distribution("exporter").read_text("direct_url.json")
        found: dict[str, Any] = json.loads(record or "{}")
    except (importlib.metadata.PackageNotFoundError, ValueError):
        return {}
    return found
