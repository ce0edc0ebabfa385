"""An artifact: a folder that is written completely or not at all, and opened only if unchanged."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from calibration.whole_file import write_whole
from exporter.config import QUANTIZED, InputSize
from exporter.errors import ExporterError, WrongUse
from exporter.output import check_parent
from exporter.untrusted import refuse_external_data

PASSPORT = "passport.json"
MODEL = "model.onnx"
CALIBRATION = "calibration.json"
SENSITIVITY = "sensitivity.json"
FORMAT = 1

Passport = dict[str, Any]

_FIELDS: dict[str, type] = {
    "source": dict,
    "target": str,
    "precision": str,
    "layout": str,
    "batch": dict,
    "graph": dict,
    "passes": dict,
    "check": dict,
    "files": dict,
}


@dataclass(frozen=True)
class Artifact:
    """A folder and its passport."""

    path: Path
    passport: Passport

    @property
    def target(self) -> str:
        """The target that it was exported for."""
        return str(self.passport["target"])

    @property
    def input_size(self) -> InputSize | None:
        """The sizes of the inputs' open dimensions that it was exported with, if the user gave any.

        Raises:
            WrongUse: the passport's text is no size.
        """
        text = self.passport["source"].get("input_size")
        return None if text is None else InputSize.parse(str(text))

    @property
    def quantization(self) -> dict[str, Any] | None:
        """The passport's entry on INT8 or FP8; None if the artifact is in floating point."""
        return quantization_of(self.passport)

    def file(self, name: str) -> Path:
        """Check a file of the artifact against the passport's hash, and return its path.

        Raises:
            ExporterError: the file is missing, changed, or not in the passport, or it is a graph
                that stores weights in other files.
        """
        path = self._find(name)
        self._check(name, sha256(path))
        if path.suffix == ".onnx":
            refuse_external_data(path)
        return path

    def read_bytes(self, name: str) -> bytes:
        """Read a file's bytes, and check their hash, so that nobody can change them in between.

        Raises:
            ExporterError: as in `file`, except that this doesn't look into graphs.
        """
        path = self._find(name)
        content = path.read_bytes()
        self._check(name, hashlib.sha256(content).hexdigest())
        return content

    def _find(self, name: str) -> Path:
        record = self.passport["files"].get(name)
        if record is None:
            raise ExporterError(f"{self.path}: the passport doesn't list a file {name!r}")
        path = self.path / name
        if not path.resolve().is_relative_to(self.path.resolve()):
            raise ExporterError(f"{self.path}: the passport lists a file outside it: {name!r}")
        if not path.is_file():
            raise ExporterError(f"{self.path}: {name} is missing", hint="export it again")
        return path

    def _check(self, name: str, digest: str) -> None:
        if digest != self.passport["files"][name]["sha256"]:
            raise ExporterError(
                f"{self.path / name} doesn't match the passport (its SHA-256 differs)",
                hint="the file was changed or damaged; export it again",
            )

    def record(self, key: str, value: Any) -> Artifact:
        """Add a measurement to the passport, under ``measured``, and keep the others there.

        Raises:
            ExporterError: the artifact was replaced since the measurement.
        """
        now = read(self.path).passport
        if now["files"] != self.passport["files"]:
            raise ExporterError(
                f"{self.path} was replaced during the measurement, so {key} doesn't belong to it",
                hint="measure it again",
            )
        passport = {**now, "measured": {**now.get("measured", {}), key: value}}
        _write_json(self.path / PASSPORT, passport)
        return Artifact(self.path, passport)


def quantization_of(passport: Passport) -> dict[str, Any] | None:
    """Return a passport's entry on INT8 or FP8; None if the artifact is in floating point."""
    found: dict[str, Any] | None = next(
        (passport[name] for name in QUANTIZED if passport.get(name)), None
    )
    return found


def read(path: Path) -> Artifact:
    """Read an artifact's passport, and no other files yet.

    Raises:
        WrongUse: the folder doesn't exist or has no passport.
        ExporterError: the passport is damaged or of a newer format.
    """
    file = path / PASSPORT
    if not file.is_file():
        raise WrongUse(
            f"{path} is not an artifact: it has no {PASSPORT}",
            hint="make one with exporter export",
        )
    try:
        passport = json.loads(file.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise ExporterError(f"{file} is damaged: {error}", hint="export it again") from error
    version = passport.get("format") if isinstance(passport, dict) else None
    if type(version) is int and version != FORMAT:
        raise ExporterError(
            f"{file} has format {version}, but this version of exporter reads format {FORMAT}",
            hint="use the version of exporter that wrote it, or export again",
        )
    if version is None or not _is_whole(passport):
        raise ExporterError(f"{file} is damaged: fields are missing", hint="export it again")
    return Artifact(path, passport)


def _is_whole(passport: Passport) -> bool:
    """Return whether every field that commands need is present and has the right type."""
    files = passport.get("files")
    return (
        isinstance(passport.get("measured", {}), dict)
        and all(isinstance(passport.get(name), kind) for name, kind in _FIELDS.items())
        and isinstance(files, dict)
        and all(
            isinstance(record, dict) and isinstance(record.get("sha256"), str)
            for record in files.values()
        )
    )


@contextlib.contextmanager
def writing(output: Path, *, force: bool) -> Iterator[Path]:
    """Yield a temporary folder to build in. It moves to ``output`` if the block succeeds.

    Missing parent folders are made. If the block fails, Ctrl-C included, they and the temporary
    folder are removed, and ``output`` is unchanged.

    Raises:
        WrongUse: ``output`` exists, and ``force`` is False or it isn't an artifact.
    """
    check_free(output, force=force)
    missing = [parent for parent in output.absolute().parents if not parent.exists()]
    output.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix=f".{output.name}-", dir=output.parent))
    try:
        yield aside
        aside.chmod(0o755)
        check_free(output, force=force)  # another process may have created it meanwhile
        _swap(aside, output)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
        for parent in missing:
            with contextlib.suppress(OSError):  # it is no longer empty if the block succeeded
                parent.rmdir()


def _swap(new: Path, place: Path) -> None:
    """Replace a folder by another. If that fails, the first one is unchanged."""
    if not place.exists():
        os.rename(new, place)
        return
    old = Path(tempfile.mkdtemp(prefix=f".{place.name}-", dir=place.parent))
    os.rename(place, old)
    try:
        os.rename(new, place)
    except BaseException:
        os.rename(old, place)
        raise
    shutil.rmtree(old)


def check_free(output: Path, *, force: bool) -> None:
    """Refuse an output that can't be written, before any work begins."""
    if output.is_symlink() or not output.name:
        raise WrongUse(f"{output} can't be the name of a new folder", hint="choose another with -o")
    check_parent(output)
    if not output.exists() or (output.is_dir() and not any(output.iterdir())):
        return
    if not force:
        raise WrongUse(
            f"{output} already exists", hint="choose another folder with -o, or use --force"
        )
    if not (output / PASSPORT).is_file():
        raise WrongUse(
            f"{output} exists but is not an artifact, so --force won't replace it",
            hint="choose another folder with -o",
        )


def seal(folder: Path, passport: Passport) -> Passport:
    """Add every file's size and SHA-256 to the passport, and write it. Call this last."""
    files = {
        str(path.relative_to(folder)): {"sha256": sha256(path), "bytes": path.stat().st_size}
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    sealed = {"format": FORMAT, **passport, "files": files}
    _write_json(folder / PASSPORT, sealed)
    return sealed


def sha256(path: Path) -> str:
    """Hash a file of any size."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def _write_json(path: Path, value: Any) -> None:
    """Write all or nothing, via a new file, as names in an untrusted folder may be links."""
    write_whole(path, json.dumps(value, indent=1) + "\n")
