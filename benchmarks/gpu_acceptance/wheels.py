"""The wheels of a GPU test kit: fetched for another Python than this one, and made smaller.

The kit is for a bare machine that has a GPU, CUDA 13, the packages in :data:`PRESENT` and no
network. :data:`WANTED` lists the packages that it lacks.
"""

from __future__ import annotations

import base64
import csv
import fnmatch
import hashlib
import io
import subprocess
import sys
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.gpu_acceptance import fatbin
from benchmarks.gpu_acceptance.fatbin import Gpu
from benchmarks.gpu_acceptance.start import distribution
from exporter.errors import ExporterError, Missing
from exporter.progress import Progress, silent

PYTHON, MACHINE, GLIBC = "3.12", "x86_64", "2.28"
ROOT = Path(__file__).parents[2]
_PLATFORMS = tuple(f"manylinux_2_{minor}_{MACHINE}" for minor in range(28, 4, -1)) + tuple(
    f"{old}_{MACHINE}" for old in ("manylinux2014", "manylinux2010", "manylinux1")
)
# What conditions of requirements ask about.
_TARGET = {
    "python_version": PYTHON,
    "python_full_version": f"{PYTHON}.0",
    "sys_platform": "linux",
    "platform_system": "Linux",
    "platform_machine": MACHINE,
    "os_name": "posix",
}
_LICENSES = ("*license*", "*notice*", "*copying*")


@dataclass(frozen=True)
class Wanted:
    """One wheel of the kit.

    Attributes:
        name: what it installs, as the index spells it.
        leave_out: patterns of its files that no run on that machine opens.
        gpu_code: whether its libraries hold machine code for many GPUs.
        source: whether the index has only its sources, a few Python files.
    """

    name: str
    leave_out: tuple[str, ...] = ()
    gpu_code: bool = False
    source: bool = False


# In this order: each must fit the version bounds of the ones before it, ours first.
WANTED = (
    Wanted(
        "onnxruntime-gpu",
        leave_out=(
            # for programs in C++; the Python module contains the same code
            "onnxruntime/capi/libonnxruntime.so*",
            # for the `tensorrt` libraries, which that machine doesn't have
            "onnxruntime/capi/libonnxruntime_providers_tensorrt.so",
            # scripts that convert and optimize models
            "onnxruntime/quantization/*",
            "onnxruntime/tools/*",
            "onnxruntime/transformers/*",
        ),
        gpu_code=True,
    ),
    Wanted("flatbuffers"),
    Wanted("packaging"),
    # TensorRT-RTX. Its library is nearly all host code: 3.5 of 234 MB are for GPUs.
    Wanted("tensorrt-rtx", source=True),
    Wanted("tensorrt-rtx-cu13", source=True),
    Wanted("tensorrt-rtx-cu13-bindings"),
    Wanted("tensorrt-rtx-cu13-libs", gpu_code=True),
    # Keras, which runs on the machine's JAX or PyTorch
    Wanted("keras"),
    Wanted("absl-py"),
    Wanted("h5py"),
    Wanted("ml-dtypes"),
    Wanted("namex"),
    Wanted("optree"),
    # what our package needs; the machine may have older versions
    Wanted("onnx-ir"),
    Wanted("click"),
    Wanted("jinja2"),
    Wanted("markupsafe"),
    Wanted("pillow"),
    Wanted("rich"),
    Wanted("markdown-it-py"),
    Wanted("mdurl"),
    Wanted("pygments"),
    Wanted("typing-extensions"),
)
# What the machine has besides CUDA. JAX and PyTorch are built against its numpy, and sympy comes
# with PyTorch.
PRESENT = ("numpy", "onnx", "protobuf", "sympy")


def fetch(folder: Path, progress: Progress = silent, wanted: Sequence[Wanted] = WANTED) -> Path:
    """Build our own wheel and fetch all others into a folder.

    Returns:
        Our own wheel.

    Raises:
        Missing: this is no checkout, or pip can't find a wheel for that machine.
        ExporterError: a wheel needs another that is neither in the kit nor on the machine.
    """
    if not (ROOT / "pyproject.toml").is_file():
        raise Missing(
            "the kit's own wheel is built from the sources, and they are not here",
            hint="run it in a checkout of the project",
        )
    total = len(wanted) + 1
    progress("fetch wheels", 0, total, "exporter")
    _pip("wheel", "--no-deps", f"--wheel-dir={folder}", str(ROOT), what="our own wheel")
    (own,) = folder.glob("*.whl")
    bounds = dict(requirements(own, extras=True))
    for done, row in enumerate(wanted, 1):
        progress("fetch wheels", done, total, row.name)
        before = set(folder.iterdir())
        _fetch(row, bounds.get(row.name, ""), folder)
        (made,) = set(folder.iterdir()) - before
        for name, bound in requirements(made):
            bounds[name] = ",".join(filter(None, (bounds.get(name), bound)))
    progress("fetch wheels", total, total)
    require_complete(sorted(folder.glob("*.whl")))
    return own


def _fetch(row: Wanted, bound: str, folder: Path) -> None:
    wanted = row.name + bound
    if row.source:  # pure Python, so any Python can use what this one builds
        _pip("wheel", "--no-deps", f"--wheel-dir={folder}", wanted, what=row.name)
        return
    abis = (f"cp{PYTHON.replace('.', '')}", "abi3", "none")
    options = [f"--python-version={PYTHON}", "--implementation=cp"]
    options += [f"--abi={abi}" for abi in abis] + [f"--platform={name}" for name in _PLATFORMS]
    options += ["--no-deps", "--only-binary=:all:", f"--dest={folder}"]
    _pip("download", *options, wanted, what=row.name)


def _pip(*arguments: str, what: str) -> None:
    line = [sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    if done.returncode:
        said = [text for text in done.stderr.splitlines() if text.startswith("ERROR")]
        reason = (said or done.stderr.splitlines() or ["no reason given"])[-1]
        raise Missing(
            f"no wheel of {what} for Python {PYTHON} on {MACHINE}: {reason}",
            hint=f"try it by hand: pip download --no-deps '{arguments[-1]}'",
        )


def require_complete(wheels: Sequence[Path]) -> None:
    """Check that everything these wheels need is among them or on the machine.

    Raises:
        ExporterError: something is in neither place.
    """
    there = {distribution(wheel) for wheel in wheels} | set(PRESENT)
    for wheel in wheels:
        for name, _ in requirements(wheel):
            if name not in there:
                raise ExporterError(
                    f"{wheel.name} needs {name}, which is neither in the kit nor on the machine",
                    hint="add it to WANTED or PRESENT in benchmarks/gpu_acceptance/wheels.py",
                )


def requirements(wheel: Path, *, extras: bool = False) -> Iterator[tuple[str, str]]:
    """Read what a wheel needs on the kit's machine: names, and bounds such as "<9,>=8.5".

    With ``extras``, this includes what any of its extras needs.
    """
    from packaging.metadata import Metadata
    from packaging.utils import canonicalize_name

    with zipfile.ZipFile(wheel) as opened:
        (path,) = (name for name in opened.namelist() if name.endswith(".dist-info/METADATA"))
        metadata = Metadata.from_email(opened.read(path), validate=False)
    wanted = ["", *(metadata.provides_extra or ())] if extras else [""]
    for needed in metadata.requires_dist or ():
        marker = needed.marker
        if marker is None or any(marker.evaluate({**_TARGET, "extra": one}) for one in wanted):
            yield canonicalize_name(needed.name), str(needed.specifier)


def slim(wheel: Path, target: Path, gpus: Sequence[Gpu], row: Wanted) -> None:
    """Write a wheel without what the run doesn't need, and with a RECORD that fits.

    Args:
        wheel: from the index.
        target: the new file.
        gpus: their machine code stays; empty: all of it stays.
        row: what to leave out. Licenses and notices always stay.

    Raises:
        ExporterError: the GPU code is not laid out as this version knows it.
    """
    changed: dict[str, bytes] = {}
    with (
        zipfile.ZipFile(wheel) as source,
        zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as made,
    ):
        kept = [one for one in source.infolist() if not _left_out(one.filename, row.leave_out)]
        for member in kept:
            if member.filename.endswith(".dist-info/RECORD"):
                continue
            content = source.read(member)
            if row.gpu_code and gpus and ".so" in member.filename and content[:4] == b"\x7fELF":
                content = changed[member.filename] = _slim_library(member.filename, content, gpus)
            made.writestr(member, content, zipfile.ZIP_DEFLATED)
        for name in source.namelist():
            if name.endswith(".dist-info/RECORD"):
                names = {member.filename for member in kept}
                made.writestr(name, _record(source.read(name).decode(), names, changed))


def _slim_library(name: str, content: bytes, gpus: Sequence[Gpu]) -> bytes:
    library = bytearray(content)
    try:
        fatbin.slim(library, gpus)
    except ExporterError as error:
        raise ExporterError(f"{name}: {error.message}", hint=error.hint) from error
    return bytes(library)


def _left_out(name: str, patterns: Sequence[str]) -> bool:
    if any(fnmatch.fnmatch(name.rpartition("/")[2].lower(), pattern) for pattern in _LICENSES):
        return False
    return any(fnmatch.fnmatch(name, pattern) for pattern in patterns)


def _record(text: str, names: set[str], changed: dict[str, bytes]) -> str:
    """Rewrite a RECORD: drop the lines of files that are left out, update changed hashes.

    Its form: https://packaging.python.org/en/latest/specifications/recording-installed-packages/
    """
    made = io.StringIO()
    rows = csv.writer(made, lineterminator="\n")
    for name, old_hash, size in csv.reader(text.splitlines()):
        if name not in names:
            continue
        if (content := changed.get(name)) is not None:
            digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=")
            old_hash, size = f"sha256={digest.decode()}", str(len(content))
        rows.writerow((name, old_hash, size))
    return made.getvalue()
