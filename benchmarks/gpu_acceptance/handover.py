"""The folder between the two stages: artifacts, test images, and logits of Keras and a CPU.

It is made on a machine with Keras and read on the GPU machine, perhaps by somebody else. So nothing
in it is trusted: names are checked, arrays are read without pickle, and every file must have its
SHA-256.
"""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.accuracy.measure import Logits
from exporter.artifact import folder as artifact
from exporter.artifact.folder import MODEL, Artifact
from exporter.config import Precision
from exporter.data import datasets
from exporter.errors import ExporterError, WrongUse
from exporter.untrusted import read_json_file

PREPARED = "prepared.json"
IMAGES = "test.npz"
KERAS = "keras"
# The artifacts of each network: the target by precision, by kind of folder.
TENSORRT = "tensorrt"
BARE = "bare"
ARTIFACTS: dict[str, dict[Precision, str]] = {
    TENSORRT: {"fp16": "trt", "int8": "trt"},
    BARE: {"fp32": "ort-cuda", "fp16": "ort-cuda", "int8": "trt"},
}
# Precisions that are simulated on a CPU. FP32 needs no simulation.
SIMULATED: tuple[Precision, ...] = ("fp16", "int8")
FORMAT = 1
_MOST_BYTES = 4_000_000
_FIELDS = {
    "date": str,
    "machine": dict,
    "versions": dict,
    "images": dict,
    "models": list,
    "files": dict,
}
_NAME = re.compile(r"\w[\w.-]*")


@dataclass(frozen=True)
class Case:
    """One network.

    Attributes:
        model: its name.
        artefacts: by precision, all verified.
        logits: (images, classes) by :data:`SIMULATED` and by :data:`KERAS`.
    """

    model: str
    artefacts: Mapping[str, Artifact]
    logits: Mapping[str, Logits]


@dataclass(frozen=True)
class Prepared:
    """What the second stage starts from.

    Attributes:
        folder: the prepared one.
        images: the test images, at their published size.
        test_images: how many the whole test set has.
        cases: the networks.
        about: the whole record, which includes date, machine and versions.
    """

    folder: Path
    images: datasets.ArrayDataset
    test_images: int
    cases: tuple[Case, ...]
    about: Mapping[str, Any]

    @property
    def spec(self) -> str:
        """The name of a data set with these images."""
        return f"npz:{self.folder / IMAGES}"


def artefact_folder(folder: Path, model: str, precision: str) -> Path:
    """Name the folder of one artifact."""
    return folder / f"{model}-{precision}"


def logits_file(folder: Path, model: str) -> Path:
    """Name the file of a network's logits."""
    return folder / f"{model}.logits.npz"


def seal(
    folder: Path, models: Sequence[str], about: Mapping[str, Any], kind: str = TENSORRT
) -> None:
    """Write the record, with the hash of every file that the second stage reads.

    The record has the passports' hashes, and a passport has its artifact's. So neither can be
    exchanged for another, whose simulation would have other logits.
    """
    passports = [
        artefact_folder(folder, model, precision) / artifact.PASSPORT
        for model in models
        for precision in ARTIFACTS[kind]
    ]
    files = [folder / IMAGES, *(logits_file(folder, model) for model in models), *passports]
    files += sorted(folder.glob("*.skeleton.onnx"))
    hashes = {path.relative_to(folder).as_posix(): artifact.sha256(path) for path in files}
    record = {"format": FORMAT, "kind": kind, **about, "models": list(models), "files": hashes}
    (folder / PREPARED).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def read(folder: Path) -> Prepared:
    """Open a prepared folder and verify every file.

    Raises:
        WrongUse: it is no prepared folder.
        ExporterError: a file is damaged, or is not the one in the record.
    """
    what = "what --prepare wrote"
    about = read_json_file(folder / PREPARED, what, most_bytes=_MOST_BYTES)
    if not isinstance(about, dict) or about.get("format") != FORMAT:
        raise ExporterError(f"{folder / PREPARED} is not {what}, or of another version")
    wrong = [name for name, kind in _FIELDS.items() if not isinstance(about.get(name), kind)]
    if wrong or not _are_names(about["models"]):
        raise ExporterError(
            f"{folder / PREPARED} is damaged: {', '.join(wrong) or 'models'}",
            hint="prepare it again",
        )

    models, hashes, counts = about["models"], about["files"], about["images"]
    kind = about.get("kind", TENSORRT)
    if kind not in ARTIFACTS:
        raise ExporterError(f"{folder / PREPARED} is damaged: its kind is {kind!r}")

    def file(path: Path) -> Path:
        verify(path, hashes.get(path.relative_to(folder).as_posix()))
        return path

    images = datasets.load(f"npz:{file(folder / IMAGES)}", "test")
    assert isinstance(images, datasets.ArrayDataset)
    whole = counts.get("of")
    if type(whole) is not int or whole < len(images) or counts.get("count") != len(images):
        raise ExporterError(f"{folder / PREPARED} is damaged: its count of images is not theirs")
    cases = tuple(
        Case(
            model,
            {
                name: _artefact(file, folder, model, (name, target))
                for name, target in ARTIFACTS[kind].items()
            },
            _logits(file(logits_file(folder, model)), len(images)),
        )
        for model in models
    )
    return Prepared(folder, images, whole, cases, about)


def _are_names(models: list[Any]) -> bool:
    """Whether these are names of networks, and none leads out of the folder."""
    return (
        bool(models)
        and all(isinstance(name, str) and _NAME.fullmatch(name) for name in models)
        and len(set(models)) == len(models)
    )


def verify(path: Path, sha256: Any) -> None:
    """Check that a file has the hash in the record.

    Raises:
        WrongUse: it is missing.
        ExporterError: it has another hash.
    """
    if not path.is_file():
        raise WrongUse(f"no such file: {path}", hint="copy the whole folder")
    if sha256 != artifact.sha256(path):
        raise ExporterError(
            f"{path} is not the file its record describes (SHA-256 differs)",
            hint="it was changed or damaged on the way; copy or prepare it again",
        )


def _artefact(file: Any, folder: Path, model: str, wanted: tuple[str, str]) -> Artifact:
    precision, target = wanted
    place = artefact_folder(folder, model, precision)
    file(place / artifact.PASSPORT)
    found = artifact.read(place)
    own = found.passport["precision"]
    if (found.target, own) != (target, precision):
        raise ExporterError(f"{place} is {found.target} in {own}, not {target} in {precision}")
    found.file(MODEL)
    return found


def _logits(path: Path, images: int) -> dict[str, Logits]:
    """Read a network's logits.

    Raises:
        ExporterError: they are damaged, or of other images.
    """
    names = (KERAS, *SIMULATED)
    try:
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as archive:
            found = {name: np.asarray(archive[name]) for name in names}
    except (OSError, ValueError, KeyError, EOFError, TypeError, zipfile.BadZipFile) as error:
        raise ExporterError(f"{path} is damaged: {error}", hint="prepare it again") from error
    shapes = {array.shape for array in found.values()}
    types = {array.dtype for array in found.values()}
    if len(shapes) != 1 or types != {np.dtype(np.float32)} or next(iter(shapes))[:1] != (images,):
        raise ExporterError(f"{path} is not of these {images} images: {shapes}, {types}")
    return found
