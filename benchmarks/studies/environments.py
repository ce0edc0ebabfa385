"""A Python environment for each version of onnxruntime, made once and kept in a folder."""

from __future__ import annotations

import importlib.metadata
import re
import subprocess
import sys
from pathlib import Path

from exporter.errors import Missing, WrongUse

PACKAGE = "onnxruntime"
_STAMP = ".installed"
_VERSION = re.compile(r"\d+(\.\d+)+([a-z]+\d+)?")  # no wildcards: a result names one version
_LINES_SHOWN = 5


def parse_versions(text: str) -> tuple[str, ...]:
    """Split ``1.23.2,1.32.0``.

    Raises:
        WrongUse: fewer than two versions, one named twice, or one that is no full version.
    """
    found = tuple(part.strip() for part in text.split(","))
    if wrong := [one for one in found if not _VERSION.fullmatch(one)]:
        raise WrongUse(f"no version of {PACKAGE}: {', '.join(map(repr, wrong))}")
    if len(set(found)) != len(found) or len(found) < 2:
        raise WrongUse(
            f"two or more different versions are compared, not {text!r}",
            hint="the first is what the others are held against: 1.23.2,1.32.0",
        )
    return found


def requirements(version: str) -> tuple[str, ...]:
    """Return what such an environment gets: that version, and the numpy of this environment."""
    return f"{PACKAGE}=={version}", f"numpy=={importlib.metadata.version('numpy')}"


def prepare(version: str, folder: Path) -> Path:
    """Make the environment if it is missing, and return its Python.

    It has the Python that runs this. The stamp is written last, so an environment is made anew if
    the last attempt was interrupted or had other requirements.

    Raises:
        Missing: pip can't install that version here; the hint has pip's last lines.
    """
    minor = ".".join(map(str, sys.version_info[:2]))
    place = folder.absolute() / f"{PACKAGE}-{version}-python{minor}"
    python, stamp = place / "bin" / "python", place / _STAMP
    wanted = requirements(version)
    if stamp.is_file() and stamp.read_text().split() == list(wanted):
        return python
    _run([sys.executable, "-m", "venv", "--clear", str(place)], version)
    # Byte code is written when a module is first imported. Most modules never are.
    _run([str(python), "-m", "pip", "install", "-qq", "--no-compile", *wanted], version)
    stamp.write_text("\n".join(wanted) + "\n")
    return python


def _run(command: list[str], version: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        said = "\n".join((done.stderr or done.stdout).strip().splitlines()[-_LINES_SHOWN:])
        raise Missing(
            f"no environment with {PACKAGE} {version} could be made",
            hint=f"{said}\nname a version that this Python has: pip index versions {PACKAGE}",
        )
