"""GPU code taken out of libraries: a file made by hand, and nvcc and cuobjdump as oracles.

Nothing here ran on a GPU.
"""

from __future__ import annotations

import re
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.gpu_acceptance import fatbin
from benchmarks.gpu_acceptance.fatbin import ELF, PTX, Entry, Gpu
from exporter.errors import ExporterError, WrongUse

HOPPER = Gpu(9, 0)
ONLY_THIS = 0x100000


def entry(kind: int, arch: int, content: bytes, flags: int = 0) -> bytes:
    header = struct.pack(
        "<HHIQIIHHIIIQQQ", kind, 0x101, 64, len(content), 0, 0, 8, 1, arch, 0, 0, flags, 0, 0
    )
    return header + content


def container(*entries: bytes) -> bytes:
    content = b"".join(entries)
    return struct.pack("<IHHQ", 0xBA55ED50, 1, 16, len(content)) + content


def library(section: bytes) -> bytearray:
    """An ELF file with nothing but a section of GPU code and the table that names it."""
    names = b"\0.nv_fatbin\0.shstrtab\0"
    table = 64 + len(section) + len(names)
    header = struct.pack(
        "<16sHHIQQQIHHHHHH",
        b"\x7fELF\x02\x01\x01", 3, 62, 1, 0, 0, table, 0, 64, 0, 0, 64, 3, 2,
    )  # fmt: skip
    rows = [
        (0, 0, 0, 0, 0, 0),
        (1, 1, 2, 0, 64, len(section)),
        (12, 3, 0, 0, 64 + len(section), len(names)),
    ]
    packed = [struct.pack("<IIQQQQIIQQ", *row, 0, 0, 8, 0) for row in rows]
    return bytearray(header + section + names + b"".join(packed))


AMPERE, HOPPER_ONLY = entry(ELF, 80, b"A" * 24), entry(ELF, 90, b"H" * 40, ONLY_THIS)
LATER_PTX, OLD_PTX, OLDER_PTX = (
    entry(PTX, 120, b"p" * 16),
    entry(PTX, 80, b"q" * 16),
    entry(PTX, 75, b"r" * 16),
)


def test_a_file_made_by_hand() -> None:
    """Each container becomes one with only the wanted code; nothing moves outside of it."""
    first = container(AMPERE, HOPPER_ONLY, OLD_PTX)
    second = container(AMPERE, OLDER_PTX, OLD_PTX, LATER_PTX)
    made = library(first + bytes(8) + second)
    before = bytes(made)
    assert fatbin.slim(made, [HOPPER]) == fatbin.Slimmed(
        containers=2,
        kept=len(HOPPER_ONLY) + len(OLD_PTX),
        removed=2 * len(AMPERE) + len(OLD_PTX) + len(OLDER_PTX) + len(LATER_PTX),
    )
    expected = (
        container(HOPPER_ONLY).ljust(len(first), b"\0")
        + bytes(8)
        + container(OLD_PTX).ljust(len(second), b"\0")
    )
    assert bytes(made) == before[:64] + expected + before[64 + len(expected) :]


def test_a_second_time_changes_nothing() -> None:
    made = library(container(AMPERE, HOPPER_ONLY) + container(OLD_PTX))
    fatbin.slim(made, [HOPPER])
    once = bytes(made)
    assert fatbin.slim(made, [HOPPER]).removed == 0
    assert made == once


def test_a_container_in_which_nothing_fits_stays() -> None:
    made = library(container(LATER_PTX))
    before = bytes(made)
    assert fatbin.slim(made, [HOPPER]).removed == 0
    assert made == before


def test_code_of_an_unknown_kind_stays() -> None:
    unknown = entry(0x40, 80, b"?" * 8)
    made = library(container(AMPERE, unknown, HOPPER_ONLY))
    fatbin.slim(made, [HOPPER])
    assert container(unknown, HOPPER_ONLY) in made


def test_a_library_without_gpu_code_stays() -> None:
    made = library(b"")
    before = bytes(made)
    assert fatbin.slim(made, [HOPPER]) == fatbin.Slimmed(0, 0, 0)
    assert made == before


@pytest.mark.parametrize(
    ("gpu", "expected"),
    [
        ("8.0", {"sm_80"}),
        ("8.6", {"sm_80", "sm_86"}),
        ("8.9", {"sm_80", "sm_86", "sm_89"}),
        ("9.0", {"sm_90", "sm_90a"}),
        ("10.0", {"compute_90"}),
        ("7.0", set()),
    ],
)
def test_what_a_gpu_needs(gpu: str, expected: set[str]) -> None:
    entries = {
        "sm_80": Entry(ELF, Gpu(8, 0), False, 0, 1),
        "sm_86": Entry(ELF, Gpu(8, 6), False, 1, 2),
        "sm_89": Entry(ELF, Gpu(8, 9), False, 2, 3),
        "sm_90": Entry(ELF, Gpu(9, 0), False, 3, 4),
        "sm_90a": Entry(ELF, Gpu(9, 0), True, 4, 5),
        "sm_100a of another": Entry(ELF, Gpu(10, 3), True, 5, 6),
        "compute_75": Entry(PTX, Gpu(7, 5), False, 6, 7),
        "compute_90": Entry(PTX, Gpu(9, 0), False, 7, 8),
    }
    found = fatbin.needed(list(entries.values()), Gpu.parse(gpu))
    assert {name for name, one in entries.items() if one in found} == expected


@pytest.mark.parametrize(
    "section",
    [
        b"not a container!" * 2,
        container(AMPERE)[:-8],
        struct.pack("<IHHQ", 0xBA55ED50, 2, 16, 0),
        struct.pack("<IHHQ", 0xBA55ED50, 1, 0, 0),
        container(AMPERE[:8] + struct.pack("<Q", 2**63) + AMPERE[16:]),
        container(AMPERE[:4] + struct.pack("<I", 0) + AMPERE[8:]),
        container(b"12345678"),
    ],
    ids=["other", "truncated", "version", "header", "size", "entry", "short"],
)
def test_what_is_not_as_expected_is_refused(section: bytes) -> None:
    made = library(section)
    before = bytes(made)
    with pytest.raises(ExporterError, match="not laid out as this version knows") as refused:
        fatbin.slim(made, [HOPPER])
    assert refused.value.hint is not None
    assert "--gpu all" in refused.value.hint
    assert made == before


@pytest.mark.parametrize(
    "content", [b"", b"MZ", b"\x7fELF\x01\x01" + bytes(64), b"\x7fELF\x02\x01"]
)
def test_other_files_are_refused(content: bytes) -> None:
    with pytest.raises(ExporterError, match="ELF file"):
        fatbin.slim(bytearray(content), [HOPPER])


@pytest.mark.parametrize("text", ["9", "sm_90", "9.0a", "", "9.00"])
def test_no_compute_capability(text: str) -> None:
    with pytest.raises(WrongUse, match="no compute capability"):
        Gpu.parse(text)


SOURCE = """
__global__ void scale(float *x, float s, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) x[i] *= s;
}
extern "C" void go(float *x, int n) { scale<<<(n + 255) / 256, 256>>>(x, 2.f, n); }
"""
HOPPERS = ("90,code=sm_90", "90a,code=sm_90a")
OTHERS = ("80,code=sm_80", "100f,code=sm_100f")
TEXTS = ("75,code=compute_75", "80,code=compute_80")


def compiled(folder: Path, name: str, *codes: str) -> Path:
    if (nvcc := shutil.which("nvcc")) is None:
        pytest.skip("needs nvcc of CUDA 13")
    source, made = folder / "scale.cu", folder / name
    source.write_text(SOURCE)
    wanted = [f"-gencode=arch=compute_{code}" for code in codes]
    line = [nvcc, "-shared", "-Xcompiler=-fPIC", "-cudart=none", *wanted, "-o", made, source]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    if "Unsupported gpu architecture" in done.stderr:
        pytest.skip("needs nvcc of CUDA 13")
    assert done.returncode == 0, done.stderr
    return made


def slimmed(path: Path, target: Path) -> bytes:
    content = bytearray(path.read_bytes())
    fatbin.slim(content, [HOPPER])
    target.write_bytes(content)
    return bytes(content)


def gpu_code(content: bytes) -> list[list[bytes]]:
    return [
        [content[one.start : one.end] for one in each.entries]
        for each in fatbin.containers(content)
    ]


@pytest.mark.parametrize(
    ("wanted", "others"), [(HOPPERS, OTHERS + TEXTS), (TEXTS[1:], OTHERS + TEXTS[:1])]
)
def test_nvcc_would_have_written_the_same(
    tmp_path: Path, wanted: tuple[str, ...], others: tuple[str, ...]
) -> None:
    """The oracle: the same source compiled for Hopper alone."""
    whole = compiled(tmp_path, "libwhole.so", *wanted, *others)
    alone = compiled(tmp_path, "libalone.so", *wanted).read_bytes()
    assert gpu_code(slimmed(whole, tmp_path / "libslim.so")) == gpu_code(alone)


def test_cuobjdump_finds_what_was_kept(tmp_path: Path) -> None:
    """The oracle: NVIDIA's tool lists only Hopper's code, and extracts it as before."""
    packaged = (Path(place) / "nvidia/cu13/bin" for place in sys.path)
    search = ":".join(map(str, packaged))
    if (tool := shutil.which("cuobjdump") or shutil.which("cuobjdump", path=search)) is None:
        pytest.skip("needs cuobjdump (pip install nvidia-cuda-cuobjdump)")
    whole = compiled(tmp_path, "libwhole.so", *HOPPERS, *OTHERS, *TEXTS)
    slim = tmp_path / "libslim.so"
    slimmed(whole, slim)

    def run(*arguments: str, at: Path) -> str:
        at.mkdir(exist_ok=True)
        line = [tool, *arguments]
        done = subprocess.run(line, cwd=at, capture_output=True, text=True, check=True)
        return done.stdout

    listed = run("--list-elf", "--list-ptx", str(slim), at=tmp_path)
    assert re.findall(r"\.(sm_\w+)\.(\w+)", listed) == [("sm_90", "cubin"), ("sm_90a", "cubin")]
    extracted = []
    for path in (whole, slim):
        place = tmp_path / path.stem
        run("--extract-elf", "sm_90", str(path), at=place)  # whatever has that in its name
        extracted.append(sorted(file.read_bytes() for file in place.iterdir()))
    assert len(extracted[0]) == 2
    assert extracted[0] == extracted[1]
