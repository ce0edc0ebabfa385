"""Top-1, top-5 and agreement with the Keras original, by paired tests on the same images."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from benchmarks.accuracy.original import original_logits
from benchmarks.accuracy.paired import Paired, paired
from exporter import targets
from exporter.artifact.folder import Artifact
from exporter.config import NO_CODE, Given, Trust
from exporter.data import datasets
from exporter.data.feeds import image_size, in_layout, network_input
from exporter.errors import WrongUse
from exporter.models.preprocessing import GIVEN
from exporter.network import sources
from exporter.network.agreement import Agreement, compare
from exporter.network.runner import Feeds, Runner
from exporter.network.sizes import sized
from exporter.network.sources import Source
from exporter.progress import Progress, silent

if TYPE_CHECKING:
    from exporter.config import Layout

BATCH = 100

Logits = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Accuracy:
    """The accuracy of one engine on one data set.

    Attributes:
        engine: ``keras``, or the artifact's folder.
        images: how many were classified.
        correct: images whose largest logit is at the label.
        correct_top5: images whose label is among the five largest; None below six classes.
        against_keras: agreement with the original; None for the original itself.
        flips: the images whose label differs from the original's.
        paired: paired test of its top-1 against the original's; None for the original itself.
        predicted: (images,), the label of each image.
    """

    engine: str
    images: int
    correct: int
    correct_top5: int | None
    against_keras: Agreement | None = None
    flips: tuple[dict[str, int], ...] = ()
    paired: Paired | None = None
    predicted: datasets.Labels | None = field(default=None, compare=False, repr=False)

    @property
    def top1(self) -> float:
        """Share of the images classified correctly."""
        return self.correct / self.images

    @property
    def top5(self) -> float | None:
        """Share of the images whose label is among the five largest logits."""
        return None if self.correct_top5 is None else self.correct_top5 / self.images

    def as_json(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return {
            "engine": self.engine,
            "images": self.images,
            "correct": self.correct,
            "top1": self.top1,
            "top5": self.top5,
            "against_keras": self.against_keras and self.against_keras.as_json(),
            "paired": self.paired and self.paired.as_json(),
            "flips": list(self.flips),
        }


def evaluate(
    artifacts: Sequence[Artifact],
    data_spec: str | Given,
    *,
    limit: int | None = None,
    original: Any = None,
    trust: Trust = NO_CODE,
    opened: Callable[[Artifact], Runner] = targets.open_artifact,
    progress: Progress = silent,
) -> list[Accuracy]:
    """Classify the test images with the Keras original and with every artifact.

    Args:
        artifacts: all made from one network.
        data_spec: as in :func:`exporter.data.datasets.load`.
        limit: use only this many images, from the first on.
        original: path of the Keras model, if it isn't where the passport says.
        trust: the code that we may run to load the original.
        opened: makes an artifact's runner.
        progress: one bar per engine.

    Returns:
        A row for the original, then one for each artifact in the order given.

    Raises:
        WrongUse: the artifacts have different originals, the original is not the passport's, or
            labels or channels do not fit the network.
    """
    source = load_original(artifacts, original, trust)
    images = Images.load(source, data_spec, limit, progress)
    runners = [opened(artifact) for artifact in artifacts]  # fail before the work if one can't open
    expected = original_logits(images, progress)
    rows = [score("keras", expected, images.labels)]
    for artifact, opening in zip(artifacts, runners, strict=True):
        with opening as runner:
            given = images.feeds(artifact.passport["layout"])
            stage = artifact.path.name
            got = images.logits(runner, given, images_a_call(artifact), stage, progress)
        name = f"{artifact.path} (simulated)" if targets.simulates(artifact) else str(artifact.path)
        rows.append(score(name, got, images.labels, expected))
    return rows


def fixed_batch(artifact: Artifact) -> int | None:
    """Return the one batch size that an artifact takes, or None."""
    batch = artifact.passport["batch"]
    return batch["min"] if batch["min"] == batch["max"] else None


def images_a_call(artifact: Artifact) -> int | None:
    """Return how many images to give an artifact at once; None if any number works."""
    batch = artifact.passport["batch"]
    return None if batch["max"] is None else max(batch["min"], min(batch["max"], BATCH))


@dataclass(frozen=True)
class Images:
    """Labeled test images in the form one classifier takes; they can be read repeatedly.

    Attributes:
        source: the classifier.
        data: the test set.
        count: how many of its images are used, from the first on.
        size: height and width.
    """

    source: Source
    data: datasets.Dataset
    count: int
    size: tuple[int, ...]

    @classmethod
    def load(
        cls, source: Source, data_spec: str | Given, limit: int | None, progress: Progress
    ) -> Images:
        """Load the test images, and check that they fit the network.

        Raises:
            WrongUse: the network is not a classifier, its preprocessing is unknown, or labels or
                channels don't fit it.
        """
        if len(source.outputs) != 1 or len(source.outputs[0].shape) != 2:
            raise WrongUse(
                f"{source.name} is not a classifier with one output of (batch, classes): "
                f"{source.outputs}"
            )
        data = datasets.load(data_spec, "test", progress)
        count = len(data) if limit is None else min(limit, len(data))
        labels = data.labels[:count]
        classes = source.outputs[0].shape[-1]
        if classes is not None and not 0 <= labels.min() <= labels.max() < classes:
            raise WrongUse(
                f"{data.name} has labels {labels.min()} to {labels.max()}, "
                f"but {source.name} has only the {classes} classes 0 to {classes - 1}"
            )
        size = image_size(source, data)
        if source.preprocessing is None:
            raise WrongUse(
                "the preprocessing of this artifact is unknown",
                hint="export it again with --preprocess",
            )
        return cls(source, data, count, size)

    @property
    def labels(self) -> datasets.Labels:
        """(count,) class indices."""
        return self.data.labels[: self.count]

    def feeds(
        self, layout: Layout = "nhwc", batch: int = BATCH, limit: int | None = None
    ) -> Iterator[Feeds]:
        """Yield the first ``limit`` images, preprocessed, one batch at a time."""
        most = self.count if limit is None else min(limit, self.count)
        for pixels, _ in datasets.batches(self.data, self.size, batch, most):
            yield in_layout(network_input(self.source, pixels), layout)

    def logits(
        self,
        runner: Runner,
        feeds: Iterator[Feeds],
        batch: int | None,
        stage: str,
        progress: Progress,
    ) -> Logits:
        """Run all batches, cut or padded to ``batch``; return logits of shape (count, classes)."""
        output = self.source.outputs[0].name
        parts: list[Logits] = []
        done = 0
        for feed in feeds:
            for part, real in cut(feed, batch):
                parts.append(runner.infer(part)[output][:real])
                done += real
            progress(stage, done, self.count)
        return np.concatenate(parts)


def load_original(
    artifacts: Sequence[Artifact], original: Any = None, trust: Trust = NO_CODE
) -> Source:
    """Load the network that the artifacts were made from, and check its hash.

    Args:
        artifacts: made from one network.
        original: the path of the Keras model, or the model in memory; None: where the passport
            says.
        trust: the code that we may run to load it.

    Raises:
        WrongUse: the artifacts have different originals, or the hash of the file differs.
    """
    origins = [artifact.passport["source"] for artifact in artifacts]
    origin = origins[0]
    for artifact, other in zip(artifacts, origins, strict=True):
        if other["sha256"] != origin["sha256"] or other["model"] != origin["model"]:
            raise WrongUse(
                f"{artifact.path} was made from {other['model']}, "
                f"but {artifacts[0].path} was made from {origin['model']}",
                hint="evaluate artifacts of one network at a time",
            )
    original = str(original) if isinstance(original, Path) else original
    preprocessing = artifacts[0].passport["preprocessing"]
    is_given = (preprocessing or {}).get("name") == GIVEN
    name = preprocessing["name"] if preprocessing and not is_given else None
    if origin["kind"] == "live" or not isinstance(original, (str, type(None))):
        source = _live(artifacts[0], original, name, trust)
    else:
        source = _from_file(artifacts[0], original, name, trust)
    source = sized(source, artifacts[0].input_size)
    return replace(source, preprocessing=GIVEN) if is_given else source


def _from_file(artifact: Artifact, original: str | None, name: str | None, trust: Trust) -> Source:
    """Load the original from where the passport says, or from the user's path."""
    origin = artifact.passport["source"]
    in_zoo = origin["kind"] == "zoo"
    weights = original or (None if origin["weights"] == "shipped" else origin["weights"])
    try:
        source = sources.load(
            origin["model"] if in_zoo or original is None else original,
            weights=weights if in_zoo else None,
            preprocessing=name,
            trust=trust,
        )
    except WrongUse as error:
        hint = error.hint or "name the network that the artifact was made from with --original"
        raise WrongUse(error.message, hint=hint) from error
    if source.sha256 != origin["sha256"]:
        raise WrongUse(
            f"{source.name} is not the network that {artifact.path} was made from "
            "(SHA-256 differs)",
            hint="name the right file with --original, or export again",
        )
    return source


def _live(artifact: Artifact, original: Any, name: str | None, trust: Trust) -> Source:
    """Return the original of an artifact that was exported from memory, or is in memory now.

    Its weights are compared, as a file has another hash.
    """
    origin = artifact.passport["source"]
    if original is None:
        raise WrongUse(
            f"{artifact.path} was made from a model in memory, {origin['model']}",
            hint="give the model: original=model in Python, or save it and name the file with "
            "--original",
        )
    if isinstance(original, str):
        source = sources.load(original, preprocessing=name, trust=trust)
    else:
        source = sources.from_live(original, name)
    recorded = origin.get("weights_sha256")  # no artifact of version 0.1.0 has it
    if recorded and sources.weights_sha256(source.model) != recorded:
        raise WrongUse(
            f"{source.name} is not the network that {artifact.path} was made from: its weights "
            "differ",
            hint="give the model with the weights that it was exported with, or export it again",
        )
    return source


def cut(feed: Feeds, batch: int | None) -> Iterator[tuple[Feeds, int]]:
    """Yield pieces of the wanted size, the last one padded, with their count of real images."""
    length = len(next(iter(feed.values())))
    if batch is None:
        yield feed, length
        return
    for start in range(0, length, batch):
        real = min(batch, length - start)
        rows = np.minimum(np.arange(start, start + batch), length - 1)
        yield {name: x[rows] for name, x in feed.items()}, real


def score(
    engine: str,
    logits: Logits,
    labels: datasets.Labels,
    reference: Logits | None = None,
) -> Accuracy:
    """Count the images that an engine classifies correctly.

    Args:
        engine: the engine's name.
        logits: (images, classes).
        labels: (images,).
        reference: the original's logits, (images, classes); None for the original itself.
    """
    best = logits.argmax(-1)
    top5 = None
    if logits.shape[-1] > 5:
        five = np.argpartition(-logits, 5, axis=-1)[:, :5]
        top5 = int((five == labels[:, None]).any(-1).sum())
    flips: tuple[dict[str, int], ...] = ()
    tested = None
    if reference is not None:
        expected = reference.argmax(-1)
        tested = paired(expected == labels, best == labels)
        flips = tuple(
            {
                "image": int(i),
                "label": int(labels[i]),
                "keras": int(expected[i]),
                "artefact": int(best[i]),
            }
            for i in np.flatnonzero(best != expected)
        )
    return Accuracy(
        engine,
        len(labels),
        int((best == labels).sum()),
        top5,
        None if reference is None else compare(reference, logits),
        flips,
        tested,
        best.astype(np.int64),
    )
