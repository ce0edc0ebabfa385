"""Small wheels, a kit packed from them, and a machine to start it on.

The start script runs in a process of its own, on stand-ins for the driver and CUDA's libraries: a
script `nvidia-smi` and empty files.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import stat
import subprocess
import sys
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from benchmarks.gpu_acceptance import kit, start, wheels
from benchmarks.gpu_acceptance.fatbin import Gpu
from benchmarks.gpu_acceptance.wheels import Wanted
from tests.benchmarks.gpu_acceptance.test_gpu_fatbin import AMPERE, HOPPER_ONLY, container, library

HERE = f"{sys.version_info[0]}.{sys.version_info[1]}"
PIECE = 1500
# What the run is in these tests: it tells what it was called with, and ends in 3.
RUN = """
import json, os, sys, lib
told = {"arguments": sys.argv[1:], "lib": lib.__file__, "loader": os.environ["LD_LIBRARY_PATH"]}
print(json.dumps(told))
sys.exit(3)
"""
WANTED = (
    Wanted("onnxruntime-gpu", leave_out=("lib/tools/*",), gpu_code=True),
    Wanted("small-one"),
)


def wheel(folder: Path, name: str, files: Mapping[str, bytes], needs: tuple[str, ...] = ()) -> Path:
    """Write a wheel as the specification has it."""
    info = f"{name}-1.0.dist-info"
    head = ["Metadata-Version: 2.1", "Provides-Extra: keras"]
    metadata = "\n".join([*head, *(f"Requires-Dist: {one}" for one in needs)])
    content = {**files, f"{info}/METADATA": metadata.encode(), f"{info}/licenses/LICENSE": b"own"}
    record = [f"{path},{digest(data)},{len(data)}" for path, data in content.items()]
    record.append(f"{info}/RECORD,,")
    made = folder / f"{name}-1.0-py3-none-any.whl"
    with zipfile.ZipFile(made, "w") as opened:
        for path, data in content.items():
            opened.writestr(path, data)
        opened.writestr(f"{info}/RECORD", "\n".join(record) + "\n")
    return made


def digest(data: bytes) -> str:
    found = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=")
    return f"sha256={found.decode()}"


LIBRARY = bytes(library(container(AMPERE, HOPPER_ONLY)))
ORT = {
    "lib/__init__.py": b"",
    "lib/cuda.so": LIBRARY,
    "lib/tools/convert.py": b"#" * 400,
    "lib/tools/LICENSE.txt": b"their terms",
    "onnxruntime_gpu-1.0.data/purelib/moved.py": b"",
    "onnxruntime_gpu-1.0.data/scripts/tool": b"",
}


def fetch(folder: Path, progress: Any) -> Path:
    wheel(folder, "onnxruntime_gpu", ORT)
    wheel(folder, "small_one", {"small.py": os.urandom(3000)})
    run = {
        "benchmarks/__init__.py": b"",
        "benchmarks/gpu_acceptance/__init__.py": b"",
        "benchmarks/gpu_acceptance/__main__.py": RUN.encode(),
    }
    return wheel(folder, "exporter", run)


def prepare(folder: Path, progress: Any) -> None:
    (folder / "net-fp16").mkdir(parents=True)
    (folder / "net-fp16" / "model.onnx").write_bytes(b"weights" * 100)
    (folder / "prepared.json").write_text("{}")


SOURCES = kit.Sources(fetch, prepare, WANTED)


@dataclass
class Stage:
    """A packed kit, and a machine to start it on."""

    kit: Path
    work: Path
    bin: Path
    libraries: Path

    def start(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        environment = {
            "PATH": str(self.bin),
            "LD_LIBRARY_PATH": str(self.libraries),
            "HOME": str(self.work),
        }
        line = [sys.executable, str(self.kit / "start.py"), *arguments]
        return subprocess.run(
            line, cwd=self.work, env=environment, capture_output=True, text=True, check=False
        )

    def refused(self, code: int, *arguments: str) -> list[str]:
        """Start it; return the lines that say why it didn't go on."""
        done = self.start(*arguments)
        assert done.returncode == code, done.stderr
        assert list(self.work.iterdir()) == [], "nothing half-done is left"
        lines = done.stderr.splitlines()
        assert all(line.startswith("error: ") for line in lines), done.stderr
        return [line.removeprefix("error: ") for line in lines]

    def driver(self, version: str | None) -> None:
        script = self.bin / "nvidia-smi"
        script.unlink(missing_ok=True)
        if version is not None:
            script.write_text(f"#!/bin/sh\necho {version}\n")
            script.chmod(script.stat().st_mode | stat.S_IXUSR)

    def change(self, **needs: Any) -> None:
        """Change what the kit asks of a machine."""
        path = self.kit / start.MANIFEST
        manifest = json.loads(path.read_text())
        manifest["needs"].update(needs)
        path.write_text(json.dumps(manifest))


def packed_stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stage:
    monkeypatch.setattr(wheels, "PYTHON", HERE)
    monkeypatch.setattr(wheels, "GLIBC", "2.17")
    made = Stage(*(tmp_path / name for name in ("kit", "work", "bin", "libraries")))
    kit.pack(made.kit, SOURCES, PIECE, [Gpu(9, 0)])
    for folder in (made.work, made.bin, made.libraries):
        folder.mkdir()
    for name in kit.LIBRARIES:
        (made.libraries / name).touch()
    made.driver("580.65.06")
    return made
