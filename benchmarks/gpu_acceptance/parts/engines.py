"""How the parts open artifacts: on the GPU, or with the CPU's provider in a rehearsal."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.gpu_acceptance.parts import Device
from exporter import targets
from exporter.artifact import folder as artifact
from exporter.artifact.folder import MODEL, Artifact
from exporter.config import BuildOptions
from exporter.finish import finish

if TYPE_CHECKING:
    from benchmarks.gpu_acceptance.handover import Case
    from exporter.network.runner import Runner


@dataclass(frozen=True)
class Variant:
    """One way to run a network.

    Attributes:
        name: in tables.
        precision: of the graph.
        tf32: whether FP32 products may round their factors.
    """

    name: str
    precision: str
    tf32: bool = False


VARIANTS = (
    Variant("fp32", "fp32"),
    Variant("tf32", "fp32", tf32=True),
    Variant("fp16", "fp16"),
)


def finished(given: Artifact, variant: Variant, place: Path, device: Device) -> Artifact:
    """Copy an artifact and finish the copy on the GPU. A rehearsal only copies it.

    Raises:
        As :func:`exporter.finish.finish`: the provider is missing, or nodes would fall back.
    """
    shutil.copytree(given.path, place, symlinks=True)  # links out of it are refused later
    if device == "cpu":
        return artifact.read(place)
    return finish(place, BuildOptions(tf32=variant.tf32))


def all_finished(case: Case, work: Path, device: Device) -> Iterator[tuple[Variant, Artifact]]:
    """Finish every variant of a network, one after the other."""
    for variant in VARIANTS:
        place = work / f"{case.model}-{variant.name}"
        yield variant, finished(case.artefacts[variant.precision], variant, place, device)


def open_on(one: Artifact, device: Device) -> Runner:
    """Open an artifact on its target; in a rehearsal with onnxruntime's CPU provider."""
    if device == "cpu":
        from exporter.targets.ort import OrtRunner

        return OrtRunner(one.file(MODEL))
    return targets.open_artifact(one)
