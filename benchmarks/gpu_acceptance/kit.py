"""Pack a GPU test kit: a few pieces, a manifest, and one script that starts it there."""

from __future__ import annotations

import dataclasses
import json
import shutil
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import result_file
from benchmarks.gpu_acceptance import pieces, start, wheels
from benchmarks.gpu_acceptance.fatbin import Gpu
from benchmarks.gpu_acceptance.wheels import WANTED, Wanted
from exporter.artifact import folder as artifact
from exporter.errors import WrongUse
from exporter.progress import Progress, silent

CUDA = 13
# CUDA 13.x: >= 580.
# https://docs.nvidia.com/deploy/cuda-compatibility/minor-version-compatibility.html
DRIVER = "580"
# The libraries that onnxruntime's CUDA library is linked to, and cuDNN, which it loads on demand,
# each with the package that has it.
LIBRARIES = {
    "libcudart.so.13": "nvidia-cuda-runtime",
    "libcublas.so.13": "nvidia-cublas",
    "libcublasLt.so.13": "nvidia-cublas",
    "libcurand.so.10": "nvidia-curand",
    "libcudnn.so.9": "nvidia-cudnn-cu13",
}
GPU_WHEEL = "onnxruntime-gpu"
_STORED = (".whl", ".npz", ".keras")  # compressed already


@dataclass(frozen=True)
class Part:
    """One part of the kit: its bytes as fetched or made, and its bytes in the kit."""

    name: str
    before: int
    after: int


@dataclass(frozen=True)
class Packed:
    """The result of :func:`pack`: the parts, largest first, and the sizes of all pieces."""

    parts: tuple[Part, ...]
    pieces: tuple[int, ...]


@dataclass(frozen=True)
class Sources:
    """Where a kit's content comes from. Tests use small ones.

    Attributes:
        fetch: writes all wheels into a folder, and returns our own.
        prepare: writes artifacts and images into a new folder.
        wanted: the rows of all wheels but our own.
    """

    fetch: Callable[[Path, Progress], Path]
    prepare: Callable[[Path, Progress], None]
    wanted: Sequence[Wanted] = WANTED


def pack(
    output: Path,
    sources: Sources,
    piece_bytes: int,
    gpus: Sequence[Gpu],
    progress: Progress = silent,
) -> Packed:
    """Write a kit, whole or not at all. Folders above it are made.

    Args:
        output: a new or empty folder.
        sources: what goes in.
        piece_bytes: the largest size of a piece.
        gpus: their machine code stays in the wheels; empty: all of it stays.
        progress: told of each step.

    Raises:
        WrongUse: the folder is not empty.
        As `Sources.fetch` and `Sources.prepare`, and `wheels.slim`.
    """
    require_empty(output)
    output.parent.mkdir(parents=True, exist_ok=True)
    with artifact.writing(output, force=False) as aside:
        work = aside / "work"
        fetched, slimmed = work / "fetched", work / start.WHEELS
        for folder in (fetched, slimmed):
            folder.mkdir(parents=True)
        own = sources.fetch(fetched, progress)  # first, because it fails early and is fast
        parts = _slim_all(sorted(fetched.glob("*.whl")), slimmed, sources.wanted, gpus, progress)
        sources.prepare(work / start.PREPARED, progress)
        archive = work / "kit.zip"
        parts += _archive(work, archive, progress)
        parts.sort(key=lambda part: -part.after)
        rows = pieces.cut(archive, aside, piece_bytes, progress)
        manifest = {
            "format": start.FORMAT,
            **result_file.header("gpu_acceptance"),
            "gpus": [str(gpu) for gpu in gpus],
            "needs": _needs(own, slimmed, sources.wanted, _room(work, archive)),
            "pieces": rows,
            "parts": [dataclasses.asdict(part) for part in parts],
        }
        text = json.dumps(manifest, indent=1) + "\n"
        (aside / start.MANIFEST).write_text(text, encoding="utf-8")
        shutil.copyfile(start.__file__, aside / "start.py")
        (aside / ".gitignore").write_text("*\n", encoding="utf-8")  # hundreds of MB
        shutil.rmtree(work)
    return Packed(tuple(parts), tuple(row["bytes"] for row in rows))


def require_empty(output: Path) -> None:
    """Refuse a folder that is not empty, before minutes of work.

    Raises:
        WrongUse: it is not empty, or is a file.
    """
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise WrongUse(f"{output} is not an empty folder", hint="choose another for --pack")


def _slim_all(
    fetched: Sequence[Path],
    folder: Path,
    wanted: Sequence[Wanted],
    gpus: Sequence[Gpu],
    progress: Progress,
) -> list[Part]:
    """Put all wheels into a folder. Make them smaller if their rows say how."""
    rows = {row.name: row for row in wanted}
    parts = []
    for index, wheel in enumerate(fetched):
        name = start.distribution(wheel)
        progress("slim wheels", index, len(fetched), name)
        row, target = rows.get(name), folder / wheel.name
        if row is None or not (row.leave_out or row.gpu_code):
            shutil.copyfile(wheel, target)
        else:
            wheels.slim(wheel, target, gpus, row)
        parts.append(Part(name, wheel.stat().st_size, target.stat().st_size))
    progress("slim wheels", len(fetched), len(fetched))
    return parts


def _archive(work: Path, archive: Path, progress: Progress) -> list[Part]:
    """Write wheels and prepared folder into a ZIP file; return the prepared folder's parts."""
    roots = (work / start.WHEELS, work / start.PREPARED)
    files = sorted(file for root in roots for file in root.rglob("*") if file.is_file())
    before: dict[str, int] = {}
    after: dict[str, int] = {}
    with zipfile.ZipFile(archive, "w") as made:
        for index, file in enumerate(files):
            progress("pack", index, len(files), file.name)
            way = zipfile.ZIP_STORED if file.suffix in _STORED else zipfile.ZIP_DEFLATED
            inside = file.relative_to(work)
            made.write(file, inside, way)
            info = made.getinfo(inside.as_posix())
            if inside.parts[0] == start.PREPARED:
                part = inside.parts[1]
                before[part] = before.get(part, 0) + info.file_size
                after[part] = after.get(part, 0) + info.compress_size
    progress("pack", len(files), len(files))
    return [Part(f"{start.PREPARED}/{part}", before[part], after[part]) for part in before]


def _room(work: Path, archive: Path) -> int:
    """Count the bytes that installing needs at its peak: the joined pieces, and all unpacked."""
    packed = [archive, *(work / start.WHEELS).glob("*.whl")]
    total = archive.stat().st_size
    for path in packed:
        with zipfile.ZipFile(path) as opened:
            total += sum(member.file_size for member in opened.infolist())
    return total


def _needs(own: Path, folder: Path, wanted: Sequence[Wanted], disk_bytes: int) -> Mapping[str, Any]:
    """Return what the kit needs from a machine, and the wheels that the run needs."""
    versions = {
        start.distribution(wheel): wheel.name.split("-")[1] for wheel in folder.glob("*.whl")
    }
    return {
        "python": wheels.PYTHON,
        "platform": f"Linux {wheels.MACHINE}",
        "glibc": wheels.GLIBC,
        "cuda": CUDA,
        "driver": DRIVER,
        "for": f"{GPU_WHEEL} {versions.get(GPU_WHEEL, '')}".strip(),
        "libraries": LIBRARIES,
        "modules": ["numpy", "onnx"],
        "disk_bytes": disk_bytes,
        "wheels": [start.distribution(own), *(row.name for row in wanted)],
    }
