"""Parts that go wrong in their own ways; each runs in a process of its own."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.gpu_acceptance.parts import Task
from exporter.errors import Missing


def good(job: str) -> dict[str, Any]:
    return {"device": Task.from_json(job).device}


def finds_a_failure(job: str) -> dict[str, Any]:
    return {"failed": "the plan does not load", "predicted": "does not load"}


def hangs(job: str) -> dict[str, Any]:
    """Start a process that outlives a careless end, note its number, and never return."""
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    Path(Task.from_json(job).work, "child").write_text(str(child.pid))
    time.sleep(600)
    return {}


def crashes(job: str) -> dict[str, Any]:
    os.abort()


def lacks_a_wheel(job: str) -> dict[str, Any]:
    importlib.import_module("no_such_wheel")
    return {}


def refuses(job: str) -> dict[str, Any]:
    raise Missing("no NVIDIA GPU on this machine", hint="see nvidia-smi")
