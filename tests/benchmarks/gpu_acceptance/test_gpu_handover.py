"""The folder between the stages of `benchmarks.gpu_acceptance`: each kind of damage once."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.gpu_acceptance import handover
from benchmarks.gpu_acceptance.handover import SIMULATED
from exporter.artifact import folder as artifact
from exporter.artifact.folder import MODEL
from exporter.errors import ExporterError, WrongUse
from tests.benchmarks.gpu_runs import prepared_by_hand


def change_graph(folder: Path) -> None:
    path = folder / "net-int8" / MODEL
    path.write_bytes(path.read_bytes() + b"\0")


def exchange_artefacts(folder: Path) -> None:
    """Each is whole, and its own passport agrees; only the logits are not its."""
    shutil.copyfile(folder / "net-fp16" / MODEL, folder / "net-int8" / MODEL)
    passport = json.loads((folder / "net-int8" / "passport.json").read_text())
    artifact.seal(folder / "net-int8", {**passport, "created": "later"})


def change_logits(folder: Path) -> None:
    shutil.copyfile(folder / handover.IMAGES, handover.logits_file(folder, "net"))


def edit(**fields: Any) -> Any:
    def apply(folder: Path) -> None:
        path = folder / handover.PREPARED
        path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))

    return apply


def pickled_logits(folder: Path) -> None:
    """A pickle runs code when it is read; here the record even vouches for it."""
    path = handover.logits_file(folder, "net")
    np.savez(path, **dict.fromkeys(("keras", *SIMULATED), np.array([{}], object)))
    hashes = json.loads((folder / handover.PREPARED).read_text())["files"]
    edit(files={**hashes, path.name: artifact.sha256(path)})(folder)


def other_logits(folder: Path) -> None:
    path = handover.logits_file(folder, "net")
    np.savez(path, **dict.fromkeys(("keras", *SIMULATED), np.zeros((3, 3), np.float32)))
    hashes = json.loads((folder / handover.PREPARED).read_text())["files"]
    edit(files={**hashes, path.name: artifact.sha256(path)})(folder)


@pytest.mark.parametrize(
    ("damage", "kind", "message"),
    [
        (change_graph, ExporterError, "model.onnx doesn't match the passport"),
        (exchange_artefacts, ExporterError, "passport.json is not the file its record"),
        (change_logits, ExporterError, r"net.logits.npz is not the file its record"),
        (pickled_logits, ExporterError, r"net.logits.npz is damaged"),
        (other_logits, ExporterError, "not of these 40 images"),
        (edit(models=["../net"]), ExporterError, "is damaged"),
        (edit(machine=["x"]), ExporterError, "is damaged: machine"),
        (edit(models=[]), ExporterError, "is damaged"),
        (edit(files={}), ExporterError, "SHA-256 differs"),
        (edit(images={"count": 39, "of": 40}), ExporterError, "count of images"),
        (edit(images={"count": 40, "of": 3}), ExporterError, "count of images"),
        (edit(format=2), ExporterError, "of another version"),
        (lambda folder: (folder / handover.IMAGES).unlink(), WrongUse, "no such file"),
        (lambda folder: (folder / handover.PREPARED).unlink(), WrongUse, "no such file"),
    ],
)
def test_a_folder_that_is_not_what_was_prepared_is_refused(
    tmp_path: Path, damage: Any, kind: type[Exception], message: str
) -> None:
    folder = prepared_by_hand(tmp_path / "prepared")
    handover.read(folder)
    damage(folder)
    with pytest.raises(kind, match=message):
        handover.read(folder)
