"""The script that starts a GPU test kit, in a process of its own, and its checks of a machine.

The driver and CUDA's libraries are stand-ins. Nothing here ran on a GPU.
"""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks.gpu_acceptance import kit, start
from benchmarks.gpu_acceptance.start import Machine
from tests.benchmarks.gpu_kit import HERE, Stage, packed_stage


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stage:
    return packed_stage(tmp_path, monkeypatch)


def test_from_packing_to_the_run(stage: Stage) -> None:
    done = stage.start("--to", "deep/er", "-o", "out", "--seconds", "1")
    assert done.returncode == 3, done.stderr
    joined, installed, _, told = done.stdout.splitlines()
    count = len(list(stage.kit.glob("kit.*")))
    assert joined.startswith(f"joined {count} pieces")
    assert installed.startswith("installed 3 wheels")
    folder = stage.work / "deep" / "er"
    said = json.loads(told)
    prepared = str(Path("deep/er") / "prepared")
    ours = ["--run", prepared, "--without", "tensorrt", "-o", "out", "--seconds", "1"]
    assert said["arguments"] == ours
    assert said["lib"] == str(folder / "site" / "lib" / "__init__.py")
    assert said["loader"].split(":")[-1] == str(stage.libraries)
    assert (folder / "prepared" / "net-fp16" / "model.onnx").read_bytes() == b"weights" * 100
    assert (folder / "site" / "moved.py").is_file()
    assert sorted(path.name for path in folder.iterdir()) == ["installed.json", "prepared", "site"]
    again = stage.start("--to", "deep/er", "--install-only")
    assert (again.returncode, again.stdout) == (0, "installed before: deep/er\n")


def damage(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (lambda path: path.unlink(), "kit.001 is missing: copy it again"),
        (damage, "kit.001 is damaged (SHA-256 differs): copy it again"),
        (lambda path: os.truncate(path, 7), "kit.001 has 7 bytes instead of 1500: copy it again"),
        (
            lambda path: path.write_bytes(path.read_bytes() + b"+"),
            "kit.001 has 1501 bytes instead of 1500: copy it again",
        ),
        (
            lambda path: path.with_name("kit.777").touch(),
            "kit.777 is no piece of this kit: delete it",
        ),
    ],
    ids=["missing", "damaged", "truncated", "longer", "extra"],
)
def test_a_piece_that_is_not_right(stage: Stage, harm: Callable[[Path], None], said: str) -> None:
    harm(stage.kit / "kit.001")
    (line,) = stage.refused(1)
    assert line.startswith(said)


def test_each_piece_has_a_line_of_its_own(stage: Stage) -> None:
    (stage.kit / "kit.000").unlink()
    os.truncate(stage.kit / "kit.001", 1)
    (stage.kit / "kit.900").touch()
    assert [line.split()[0] for line in stage.refused(1)] == ["kit.000", "kit.001", "kit.900"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "manifest.json is missing in"),
        ("{", "manifest.json is damaged"),
        ("[]", "manifest.json is damaged"),
        ('{"format": 2}', "manifest.json has format 2, not 1"),
        ('{"format": 1, "pieces": []}', "manifest.json is damaged"),
        (
            '{"format": 1, "pieces": [{"name": "../kit.000", "bytes": 1, "sha256": ""}]}',
            "manifest.json is damaged (no names of pieces)",
        ),
        (
            '{"format": 1, "pieces": [{"name": "kit.000", "bytes": 1, "sha256": ""}], "needs": {}}',
            "manifest.json is damaged (it does not say what it needs: cuda, disk_bytes, driver",
        ),
    ],
)
def test_a_manifest_that_is_not_right(stage: Stage, content: str | None, said: str) -> None:
    path = stage.kit / start.MANIFEST
    if content is None:
        path.unlink()
    else:
        path.write_text(content)
    (line,) = stage.refused(1)
    assert line.startswith(said)
    assert line.endswith("copy it again from where the kit was packed")


def test_another_python(stage: Stage) -> None:
    stage.change(python="3.99")
    assert stage.refused(4) == [
        f"this is Python {HERE}, and the kit is for 3.99: run python3.99 start.py"
    ]


def test_no_room_on_the_disk(stage: Stage) -> None:
    stage.change(disk_bytes=10**18)
    (line,) = stage.refused(4)
    assert "and 1000000000000 MB are needed: choose another with --to" in line


@pytest.mark.skipif(Path("/proc/driver/nvidia").exists(), reason="this machine has a driver")
def test_no_driver(stage: Stage) -> None:
    stage.driver(None)
    (line,) = stage.refused(4)
    assert line == (
        "no NVIDIA driver: onnxruntime-gpu 1.0 is built for CUDA 13; install driver 580 or newer, "
        "or add --rehearse"
    )
    assert stage.start("--rehearse").returncode == 3, "the run itself"


def test_a_driver_that_is_too_old(stage: Stage) -> None:
    stage.driver("570.86.15")
    assert stage.refused(4) == [
        "the driver is 570.86.15: onnxruntime-gpu 1.0 is built for CUDA 13, which needs driver "
        "580 or newer; install a newer driver"
    ]


def test_another_cuda(stage: Stage) -> None:
    """The versions are invented: this machine may have CUDA itself."""
    stage.change(cuda=99, libraries={"libcudart.so.99": "nvidia-cuda-runtime"})
    (stage.libraries / "libcudart.so.98").touch()
    (line,) = stage.refused(4)
    assert line.startswith("not here: libcudart.so.99 (here: ")
    assert "libcudart.so.98" in line
    assert line.endswith(
        "onnxruntime-gpu 1.0 is built for CUDA 99; pip install nvidia-cuda-runtime"
    )


def test_a_module_that_the_machine_should_have(stage: Stage) -> None:
    stage.change(modules=["numpy", "no_such_module"])
    assert stage.refused(4) == ["not here: no_such_module: pip install no_such_module"]


def test_all_that_is_wrong_with_a_machine_is_said_at_once(stage: Stage) -> None:
    stage.change(python="3.99", disk_bytes=10**18)
    stage.driver("1.0")
    stage.driver("100.0")
    assert len(stage.refused(4)) == 3


def test_no_wheel_in_the_kit(stage: Stage) -> None:
    stage.change(wheels=["exporter", "keras"])
    assert stage.refused(1) == ["the kit has no wheel of keras: pack it again"]


def test_a_folder_that_cannot_be_made(stage: Stage) -> None:
    (stage.work / "file").touch()
    done = stage.start("--to", "file/kit")
    assert done.returncode == 1
    assert done.stderr.startswith("error: [Errno ")
    assert done.stderr.count("\n") == 1


def test_a_folder_with_something_in_it(stage: Stage) -> None:
    place = stage.work / "mine"
    place.mkdir()
    (place / "thesis.txt").touch()
    done = stage.start("--to", "mine")
    assert (done.returncode, [path.name for path in place.iterdir()]) == (2, ["thesis.txt"])
    assert done.stderr == "error: mine is not empty: choose another with --to, or delete it\n"


@pytest.mark.parametrize("name", ["../outside", "/outside", "a/../../outside"])
def test_a_name_that_leads_out_of_the_folder(tmp_path: Path, name: str) -> None:
    with zipfile.ZipFile(tmp_path / "bad.zip", "w") as opened:
        opened.writestr(name, b"")
    with pytest.raises(start.Stop, match=r"bad\.zip holds .*outside of its folder"):
        start.unpack(tmp_path / "bad.zip", tmp_path / "in")


GOOD = Machine("3.12", "Linux x86_64", (2, 39), "580.65.06", frozenset(kit.LIBRARIES), 10**12)
NEEDS = {
    "python": "3.12",
    "platform": "Linux x86_64",
    "glibc": "2.28",
    "cuda": 13,
    "driver": "580",
    "for": "onnxruntime-gpu 1.31.1",
    "libraries": kit.LIBRARIES,
    "disk_bytes": 10**9,
}
CUDA_12 = frozenset({"libcudart.so.12", "libcublas.so.12", "libcurand.so.10", "libcudnn.so.9"})


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({}, None),
        ({"driver": "600.1"}, None),
        ({"python": "3.13"}, "this is Python 3.13, and the kit is for 3.12: run python3.12"),
        ({"platform": "Linux aarch64"}, "this is Linux aarch64, and the kit is for Linux x86_64"),
        ({"glibc": (2, 17)}, "this system has glibc 2.17, and the wheels need 2.28"),
        ({"glibc": None}, "this system has no glibc"),
        ({"free_bytes": 10**6}, "the disk has 1 MB left, and 1000 MB are needed"),
        ({"driver": None}, "no NVIDIA driver: onnxruntime-gpu 1.31.1 is built for CUDA 13"),
        ({"driver": "575.57.08"}, "the driver is 575.57.08: .*needs driver 580 or newer"),
        (
            {"libraries": CUDA_12},
            r"not here: libcudart\.so\.13, libcublas\.so\.13, libcublasLt\.so\.13 \(here: "
            r"libcublas\.so\.12, libcudart\.so\.12\): .*CUDA 13; "
            "pip install nvidia-cuda-runtime nvidia-cublas$",
        ),
        ({"libraries": frozenset(kit.LIBRARIES) - {"libcudnn.so.9"}}, "not here: libcudnn"),
    ],
)
def test_what_a_machine_lacks(change: dict[str, Any], said: str | None) -> None:
    found = start.machine_faults(NEEDS, replace(GOOD, **change), gpu=True)
    if said is None:
        assert found == []
        return
    (line,) = found
    assert re.match(said, line), line


def test_without_a_gpu_only_the_rest_is_checked() -> None:
    bare = replace(GOOD, driver=None, libraries=frozenset())
    assert start.machine_faults(NEEDS, bare, gpu=False) == []


def test_this_machine_is_what_the_interpreter_says(tmp_path: Path) -> None:
    found = start.this_machine(tmp_path / "not" / "yet")
    assert found.python == HERE
    assert found.free_bytes > 0


def test_the_script_needs_only_the_standard_library() -> None:
    source = Path(start.__file__).read_text()
    imported = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            imported |= {name.name.partition(".")[0] for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add((node.module or "").partition(".")[0])
    assert imported <= sys.stdlib_module_names
    line = [sys.executable, "-I", "-S", start.__file__, "--help"]
    assert subprocess.run(line, capture_output=True, check=False).returncode == 0
