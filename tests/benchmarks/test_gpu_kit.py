"""A test kit for a GPU machine: packed from small wheels made here, started by its real script.

The script runs in a process of its own, on stand-ins for the driver and CUDA's libraries: a
script `nvidia-smi` and empty files. Nothing here ran on a GPU.
"""

from __future__ import annotations

import ast
import base64
import csv
import hashlib
import json
import os
import re
import stat
import subprocess
import sys
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from benchmarks.gpu_acceptance import __main__ as command
from benchmarks.gpu_acceptance import kit, pieces, start, wheels
from benchmarks.gpu_acceptance.fatbin import Gpu
from benchmarks.gpu_acceptance.start import Machine
from benchmarks.gpu_acceptance.wheels import Wanted
from exporter.errors import ExporterError, Missing, WrongUse
from tests.benchmarks.test_gpu_fatbin import AMPERE, HOPPER_ONLY, container, library

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
    metadata = "\n".join(["Metadata-Version: 2.1", *(f"Requires-Dist: {one}" for one in needs)])
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


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stage:
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


def test_only_a_few_files_none_of_them_larger_than_asked(stage: Stage) -> None:
    files = {path.name: path.stat().st_size for path in stage.kit.iterdir()}
    numbered = sorted(name for name in files if name.startswith("kit."))
    assert set(files) == {*numbered, "manifest.json", "start.py"}
    assert numbered == [f"kit.{index:03d}" for index in range(len(numbered))]
    assert [files[name] for name in numbered[:-1]] == [PIECE] * (len(numbered) - 1)
    assert 0 < files[numbered[-1]] <= PIECE


def test_machine_code_for_other_gpus_is_gone_and_the_record_is_right(stage: Stage) -> None:
    assert stage.start("--install-only").returncode == 0
    site = stage.work / "gpu-kit" / "site"
    slim = (site / "lib" / "cuda.so").read_bytes()
    assert container(HOPPER_ONLY) in slim
    assert b"A" * 24 not in slim
    assert len(slim) == len(LIBRARY)
    assert not (site / "lib/tools/convert.py").exists()
    assert (site / "lib/tools/LICENSE.txt").read_bytes() == b"their terms"
    record = site / "onnxruntime_gpu-1.0.dist-info" / "RECORD"
    rows = list(csv.reader(record.read_text().splitlines()))
    assert {row[0] for row in rows} == {
        *ORT.keys() - {"lib/tools/convert.py"},
        *(f"onnxruntime_gpu-1.0.dist-info/{name}" for name in ("METADATA", "RECORD")),
        "onnxruntime_gpu-1.0.dist-info/licenses/LICENSE",
    }
    for name, hashed, size in rows:
        if hashed and (site / name).exists():
            data = (site / name).read_bytes()
            assert (hashed, int(size)) == (digest(data), len(data)), name


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
        ('{"format": 1, "pieces": [{"name": "../kit.000"}]}', "manifest.json is damaged"),
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


def test_an_output_that_is_in_use(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").touch()
    with pytest.raises(WrongUse, match="is not an empty folder"):
        kit.pack(tmp_path, SOURCES, PIECE, [])
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_a_failure_leaves_nothing_behind(tmp_path: Path) -> None:
    def failing(folder: Path, progress: Any) -> None:
        raise ExporterError("no room for this network")

    with pytest.raises(ExporterError, match="no room"):
        kit.pack(tmp_path / "a" / "kit", replace(SOURCES, prepare=failing), PIECE, [])
    assert list((tmp_path / "a").iterdir()) == []


def test_pieces_have_three_digits(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(bytes(1000))
    with pytest.raises(WrongUse, match="1000 bytes are 1000 pieces of 1, and 999 is the most"):
        pieces.cut(tmp_path / "file", tmp_path, 1)


def test_sizes_are_told(tmp_path: Path) -> None:
    packed = kit.pack(tmp_path / "kit", SOURCES, 10**6, [Gpu(9, 0)])
    parts = {part.name: part for part in packed.parts}
    assert parts["prepared/net-fp16"].before == 700
    assert parts["onnxruntime-gpu"].before == wheel(tmp_path, "onnxruntime_gpu", ORT).stat().st_size
    (only,) = packed.pieces
    assert only == (tmp_path / "kit" / "kit.000").stat().st_size


def test_what_wheels_need(tmp_path: Path) -> None:
    needs = (
        "click<9,>=8.5",
        "Typing_Extensions (>=4.10)",
        'keras[tf]>=3; extra == "keras"',
        'tomli; python_version < "3.11"',
        "numpy",
    )
    made = wheel(tmp_path, "exporter", {}, needs)
    always = {"click": "<9,>=8.5", "typing-extensions": ">=4.10", "numpy": ""}
    assert dict(wheels.requirements(made)) == always
    assert dict(wheels.requirements(made, extras=True)) == {**always, "keras": ">=3"}
    with pytest.raises(ExporterError, match="needs click, which is neither in the kit nor on"):
        wheels.require_complete([made])
    others = [wheel(tmp_path, name, {}) for name in ("click", "typing_extensions")]
    wheels.require_complete([made, *others])


def test_each_wheel_is_held_to_what_the_others_need(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """pip is replaced: it writes a wheel that needs other versions."""
    asked = []

    def pip(*arguments: str, what: str) -> None:
        asked.append((arguments[0], arguments[-1]))
        if what == "our own wheel":
            wheel(tmp_path, "exporter", {}, ("rich>=15", 'keras<4; extra == "keras"'))
        else:
            wheel(tmp_path, what, {}, ("rich<17",) if what == "keras" else ())

    monkeypatch.setattr(wheels, "_pip", pip)
    rows = [Wanted("keras"), Wanted("rich"), Wanted("plain", source=True)]
    assert wheels.fetch(tmp_path, wanted=rows).name == "exporter-1.0-py3-none-any.whl"
    assert asked[1:] == [("download", "keras<4"), ("download", "rich>=15,<17"), ("wheel", "plain")]


def test_a_wheel_that_the_index_lacks(tmp_path: Path) -> None:
    with pytest.raises(Missing, match=r"no wheel of it for Python 3\.12 on x86_64: ERROR") as error:
        wheels._pip("download", "--no-index", "no-such-thing", what="it")
    assert error.value.hint == "try it by hand: pip download --no-deps 'no-such-thing'"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--run", "a"), "--pack goes without --prepare and --run"),
        (("--prepare", "a"), "--pack goes without --prepare and --run"),
        (("--gpu", "all", "--gpu", "9.0"), "contradict"),
        (("--gpu", "sm_90"), "no compute capability"),
        (("--prepared", "a", "--images", "5"), "--prepared has it made"),
    ],
)
def test_wrong_use(tmp_path: Path, arguments: tuple[str, ...], said: str) -> None:
    done = CliRunner().invoke(command.main, ["--pack", str(tmp_path / "kit"), *arguments])
    assert isinstance(done.exception, WrongUse)
    assert said in str(done.exception)


def test_prepared_alone_is_wrong_use(tmp_path: Path) -> None:
    done = CliRunner().invoke(command.main, ["--prepared", str(tmp_path)])
    assert isinstance(done.exception, WrongUse)
