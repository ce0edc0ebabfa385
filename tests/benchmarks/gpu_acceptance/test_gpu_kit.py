"""Packing a test kit for a GPU machine, from small wheels made here. Nothing here ran on a GPU."""

from __future__ import annotations

import csv
import json
import subprocess
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from benchmarks.gpu_acceptance import __main__ as command
from benchmarks.gpu_acceptance import kit, pieces, start, wheels
from benchmarks.gpu_acceptance.fatbin import Gpu
from benchmarks.gpu_acceptance.wheels import Wanted
from exporter.errors import ExporterError, Missing, WrongUse
from tests.benchmarks.gpu_acceptance.test_gpu_fatbin import HOPPER_ONLY, container
from tests.benchmarks.gpu_kit import (
    LIBRARY,
    ORT,
    PIECE,
    SOURCES,
    Stage,
    digest,
    packed_stage,
    wheel,
)


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stage:
    return packed_stage(tmp_path, monkeypatch)


def test_only_a_few_files_none_of_them_larger_than_asked(stage: Stage) -> None:
    files = {path.name: path.stat().st_size for path in stage.kit.iterdir()}
    numbered = sorted(name for name in files if name.startswith("kit."))
    assert set(files) == {*numbered, "manifest.json", "start.py", ".gitignore"}
    assert numbered == [f"kit.{index:03d}" for index in range(len(numbered))]
    assert [files[name] for name in numbered[:-1]] == [PIECE] * (len(numbered) - 1)
    assert 0 < files[numbered[-1]] <= PIECE


def test_a_kit_stays_out_of_git(stage: Stage) -> None:
    git = ["git", "-C", str(stage.kit)]
    subprocess.run([*git, "init", "--quiet"], check=True)
    line = [*git, "status", "--porcelain", "--untracked-files=all"]
    assert subprocess.run(line, capture_output=True, text=True, check=True).stdout == ""


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
    with pytest.raises(WrongUse, match="1000 bytes would be 1000 pieces of 1, but 999 is the most"):
        pieces.cut(tmp_path / "file", tmp_path, 1)


def test_sizes_are_told(tmp_path: Path) -> None:
    packed = kit.pack(tmp_path / "kit", SOURCES, 10**6, [Gpu(9, 0)])
    parts = {part.name: part for part in packed.parts}
    assert parts["prepared/net-fp16"].before == 700
    assert parts["onnxruntime-gpu"].before == wheel(tmp_path, "onnxruntime_gpu", ORT).stat().st_size
    manifest = json.loads((tmp_path / "kit" / start.MANIFEST).read_text())
    assert [row["name"] for row in manifest["parts"]] == [part.name for part in packed.parts]
    (only,) = packed.pieces
    assert only == (tmp_path / "kit" / "kit.000").stat().st_size


def test_the_sizes_in_the_documentation_are_measured() -> None:
    packages = Path(kit.__file__).parent
    manifest = json.loads((packages.parent / "results" / "kit_sizes.json").read_text())
    parts = {part["name"]: part for part in manifest["parts"]}

    def row(title: str, names: Iterable[str], after: int | None = None) -> str:
        found = [parts[name] for name in names]
        after = sum(part["after"] for part in found) if after is None else after
        return (
            f"| {title} | {after / 1e6:.1f} | {sum(part['before'] for part in found) / 1e6:.1f} |"
        )

    pieces = [piece["bytes"] for piece in manifest["pieces"]]
    expected = [
        row(manifest["needs"]["for"], ["onnxruntime-gpu"]),
        row("TensorRT-RTX 1.7.1", [name for name in parts if name.startswith("tensorrt-rtx")]),
        row("our own wheel, with the trained weights", ["exporter"]),
        row("test images", ["prepared/test.npz"]),
        row(f"in all: {len(pieces)} pieces of at most 60 MiB", parts, sum(pieces)),
    ]
    shown = (packages / "README.md").read_text()
    assert [line for line in expected if line not in shown] == []


def test_a_record_is_csv() -> None:
    last = "own.dist-info/RECORD"
    text = f'"a,b.py",sha256=x,1\n"say ""c"".py",sha256=y,2\ngone.py,sha256=z,3\n{last},,\n'
    kept = text.replace("gone.py,sha256=z,3\n", "")
    assert wheels._record(text, {"a,b.py", 'say "c".py', last}, {}) == kept


def test_what_wheels_need(tmp_path: Path) -> None:
    needs = (
        "click<9,>=8.5",
        "Typing_Extensions (>=4.10)",
        'keras[tf]>=3; extra == "keras"',
        'tomli; python_version < "3.11"',
        'colorama; sys_platform == "win32"',
        'flatbuffers>=2; python_version >= "3.12"',
        'h5py; python_version >= "3.11" and extra == "keras"',
        "numpy",
    )
    made = wheel(tmp_path, "exporter", {}, needs)
    always = {
        "click": "<9,>=8.5",
        "typing-extensions": ">=4.10",
        "flatbuffers": ">=2",
        "numpy": "",
    }
    assert dict(wheels.requirements(made)) == always
    assert dict(wheels.requirements(made, extras=True)) == {
        **always,
        "keras": ">=3",
        "h5py": "",
    }
    with pytest.raises(ExporterError, match="needs click, which is neither in the kit nor on"):
        wheels.require_complete([made])
    others = [wheel(tmp_path, name, {}) for name in ("click", "typing_extensions", "flatbuffers")]
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


def test_our_own_wheel_needs_the_sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wheels, "ROOT", tmp_path)
    with pytest.raises(Missing, match="built from the sources, and they are not here"):
        wheels.fetch(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--run", "a"), "--pack can't be used with --prepare or --run"),
        (("--prepare", "a"), "--pack can't be used with --prepare or --run"),
        (("--gpu", "all", "--gpu", "9.0"), "contradict"),
        (("--gpu", "sm_90"), "no compute capability"),
        (("--prepared", "a", "--images", "5"), "--prepared is prepared already"),
    ],
)
def test_wrong_use(tmp_path: Path, arguments: tuple[str, ...], said: str) -> None:
    done = CliRunner().invoke(command.main, ["--pack", str(tmp_path / "kit"), *arguments])
    assert isinstance(done.exception, WrongUse)
    assert said in str(done.exception)


@pytest.mark.parametrize("option", [("--prepared", "a"), ("--piece-mib", "9"), ("--gpu", "all")])
def test_what_is_for_packing_alone(option: tuple[str, str]) -> None:
    done = CliRunner().invoke(command.main, option)
    assert isinstance(done.exception, WrongUse)
    assert "need --pack" in str(done.exception)
