"""The first stage, which needs Keras and no GPU: artifacts, and the logits they should give."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import result_file
from benchmarks.accuracy import measure as accuracy
from benchmarks.accuracy.measure import Images, Logits
from benchmarks.accuracy.original import original_logits
from benchmarks.gate import run as gate_run
from benchmarks.gpu_acceptance import handover, skeleton
from benchmarks.gpu_acceptance.handover import ARTIFACTS, BARE, KERAS, SIMULATED, TENSORRT
from exporter import pipeline
from exporter.artifact import folder as artifact
from exporter.artifact.folder import Artifact
from exporter.config import Batch, ExportConfig, Int8
from exporter.data import datasets
from exporter.errors import WrongUse
from exporter.models import zoo
from exporter.progress import Progress, silent

DATA = "fashion-mnist"
_BATCH = Batch(1, 8, 32)
SHIPPED = tuple(name for name, row in zoo.ZOO.items() if row.checkpoint)


@dataclass(frozen=True)
class Wanted:
    """What to prepare.

    Attributes:
        models: zoo names, or ``.keras`` files that carry their preprocessing.
        images: how many test images, from the first on; None: all.
        kind: of :data:`benchmarks.gpu_acceptance.handover.ARTIFACTS`: for a machine with TensorRT,
            or for a bare one.
    """

    models: tuple[str, ...] = SHIPPED
    images: int | None = None
    kind: str = TENSORRT

    def __post_init__(self) -> None:
        """Refuse two models with one name.

        Raises:
            WrongUse: names them.
        """
        if len(set(self.names)) != len(self.models):
            raise WrongUse(f"two models have one name: {', '.join(self.models)}")

    @property
    def names(self) -> tuple[str, ...]:
        """The models' names in the folder."""
        return tuple(Path(model).stem for model in self.models)


def prepare(wanted: Wanted, folder: Path, progress: Progress = silent) -> None:
    """Write a prepared folder, whole or not at all.

    Raises:
        As `exporter.pipeline.export` and `benchmarks.accuracy.measure.evaluate`.
    """
    with artifact.writing(folder, force=False) as aside:
        data = datasets.load(DATA, "test", progress)
        assert isinstance(data, datasets.ArrayDataset)
        count = min(wanted.images or len(data), len(data))
        np.savez_compressed(
            aside / handover.IMAGES, images=data.images[:count], labels=data.labels[:count]
        )
        for model, name in zip(wanted.models, wanted.names, strict=True):
            _prepare(model, name, wanted, aside, progress)
        about: dict[str, Any] = {
            **result_file.header("gpu_acceptance"),
            "images": {"data": DATA, "count": count, "of": len(data)},
            "executed": "simulated on a CPU, not run on a GPU",
        }
        if wanted.kind == BARE:
            skeleton.prepare(aside, progress)
        handover.seal(aside, wanted.names, about, wanted.kind)


def _prepare(model: str, name: str, wanted: Wanted, folder: Path, progress: Progress) -> None:
    """Export one network, and keep the logits of Keras and of the simulations."""
    made = {
        precision: pipeline.export(
            ExportConfig(
                model,
                target,
                handover.artefact_folder(folder, name, precision),
                precision=precision,
                data=DATA,
                int8=Int8(rest="fp16" if precision == "int8" else None),
                batch=_BATCH if target == "trt" else Batch(),
            ),
            progress,
        )
        for precision, target in ARTIFACTS[wanted.kind].items()
    }
    simulated = [made[precision] for precision in SIMULATED]
    logits = _logits(simulated, wanted.images, progress)
    np.savez_compressed(handover.logits_file(folder, name), allow_pickle=False, **logits)


def _logits(made: Sequence[Artifact], limit: int | None, progress: Progress) -> dict[str, Logits]:
    """Run Keras, and each graph's simulation, on the test images."""
    source = accuracy.load_original(made)
    images = Images.load(source, DATA, limit, progress)
    found = {KERAS: original_logits(images, progress)}
    for one in made:
        precision, layout = one.passport["precision"], one.passport["layout"]
        with gate_run.open_simulated(one) as runner:
            feeds = images.feeds(layout)
            found[precision] = images.logits(
                runner, feeds, None, f"{precision} simulated", progress
            )
    return found
