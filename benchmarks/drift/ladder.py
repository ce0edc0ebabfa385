"""The drift ladder: what each step from Keras to the engine changes, on the same images."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from benchmarks.accuracy.measure import (
    Accuracy,
    Images,
    Logits,
    images_a_call,
    load_original,
    score,
)
from benchmarks.accuracy.original import original_logits
from benchmarks.accuracy.paired import LEVEL
from benchmarks.drift.graphs import Graphs, remake
from calibration.sensitivity import noise_ratio, sqnr_db
from exporter import targets
from exporter.artifact.folder import MODEL, Artifact
from exporter.config import NO_CODE, QUANTIZED, Trust
from exporter.errors import Missing
from exporter.network.runner import KerasRunner, Runner
from exporter.network.sources import Source
from exporter.progress import Progress, silent

if TYPE_CHECKING:
    from exporter.config import Layout

Labels = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Made:
    """An artifact, its original and the graphs in between: enough to open all rungs."""

    artifact: Artifact
    source: Source
    graphs: Graphs

    @property
    def layout(self) -> Layout:
        """The layout of the artifact's input images."""
        layout: Layout = self.artifact.passport["layout"]
        return layout

    @property
    def steps(self) -> tuple[Step, ...]:
        """The rungs of this artifact, which depend on its types and target."""
        typed = bool({*QUANTIZED, "fp16"} & self.artifact.passport.keys())
        return LADDERS[typed, targets.simulates(self.artifact)]


@dataclass(frozen=True)
class Step:
    """A rung before it is measured.

    Attributes:
        name: the name to show.
        what: a short description.
        open: opens its runner.
        as_exported: whether it uses the artifact's layout and batch instead of Keras's.
    """

    name: str
    what: str
    open: Callable[[Made], Runner]
    as_exported: bool = True

    def layout(self, made: Made) -> Layout:
        """Return the layout of this rung's input images."""
        return made.layout if self.as_exported else "nhwc"

    def batch(self, made: Made) -> int | None:
        """Return how many images to run at once; None if any number works."""
        return images_a_call(made.artifact) if self.name != "keras" else made.source.batch


def _converted(made: Made) -> Runner:
    from exporter.targets.ort import OrtRunner

    return OrtRunner(made.graphs.converted, as_written=True)


def _folded(made: Made) -> Runner:
    from exporter.targets.ort import OrtRunner

    return OrtRunner(made.graphs.folded, as_written=True)


def _simulated(made: Made) -> Runner:
    from exporter.passes.simulate_fp16 import simulated
    from exporter.targets.ort import OrtRunner

    graph = made.artifact.file(MODEL).read_bytes()
    half = "fp16" in made.artifact.passport
    return OrtRunner(simulated(graph) if half else graph, as_written=True)


def _engine(made: Made) -> Runner:
    record = made.artifact.passport.get(made.artifact.target, {})
    if not record.get("compiled", True):
        raise Missing("it is not compiled")
    return targets.open_artifact(made.artifact)


KERAS = Step("keras", "the original", lambda made: KerasRunner(made.source), as_exported=False)
ONNX = Step("onnx", "converted, batch norms kept", _converted, as_exported=False)
FOLDED = Step("folded", "batch norms folded", _folded)
SIMULATED = Step("simulated", "Q/DQ and FP16 as written, nothing fused", _simulated)
ENGINE = Step("engine", "the deployed engine", _engine)

# Keys: (the graph has types other than float32, the artifact itself is only simulated).
LADDERS: dict[tuple[bool, bool], tuple[Step, ...]] = {
    (False, False): (KERAS, ONNX, FOLDED, ENGINE),
    (True, False): (KERAS, ONNX, FOLDED, SIMULATED, ENGINE),
    (True, True): (KERAS, ONNX, FOLDED, SIMULATED),
}


@dataclass(frozen=True)
class Change:
    """One rung compared with another, on the same images.

    Attributes:
        accuracy: its score, with agreement, flips and the paired test against the other.
        noise: energy of the logits' error divided by that of the other's logits; not finite if
            the logits aren't.
        won: images that only this rung classifies correctly, by class.
        lost: images that only the other rung classifies correctly, by class.
    """

    accuracy: Accuracy
    noise: float
    won: tuple[int, ...]
    lost: tuple[int, ...]

    @property
    def sqnr_db(self) -> float:
        """Signal-to-noise ratio of the logits in dB; infinite if nothing changed."""
        return sqnr_db(self.noise)

    def as_json(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        agreement, tested = self.accuracy.against_keras, self.accuracy.paired
        assert agreement is not None
        assert tested is not None
        return {
            **agreement.as_json(),
            "noise": self.noise if math.isfinite(self.noise) else None,
            "sqnr_db": self.sqnr_db if math.isfinite(self.sqnr_db) else None,
            "paired": tested.as_json(),
            "won_by_class": list(self.won),
            "lost_by_class": list(self.lost),
        }


@dataclass(frozen=True)
class Rung:
    """A measured rung, or the reason why it was not measured.

    Attributes:
        name: the name to show.
        what: a short description.
        accuracy: its score; None if it was not run.
        correct: images that it classifies correctly, by class.
        against_keras: the change from Keras; None for Keras itself, and if it was not run.
        against_before: the change from the rung before it; None in the same cases.
        not_run: why it was not run.
    """

    name: str
    what: str
    accuracy: Accuracy | None = None
    correct: tuple[int, ...] = ()
    against_keras: Change | None = None
    against_before: Change | None = None
    not_run: str | None = None

    def as_json(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        scored = self.accuracy
        return {
            "rung": self.name,
            "what": self.what,
            "not_run": self.not_run,
            "correct": scored and scored.correct,
            "top1": scored and scored.top1,
            "top5": scored and scored.top5,
            "correct_by_class": list(self.correct),
            "against_keras": self.against_keras and self.against_keras.as_json(),
            "against_before": self.against_before and self.against_before.as_json(),
        }


@dataclass(frozen=True)
class Ladder:
    """All rungs of one artifact.

    Attributes:
        made: the artifact, original and graphs that they were opened from.
        images: the images that they were measured on.
        rungs: in order; those that were run come first.
        predictions: (rungs that were run, images), the predicted class.
    """

    made: Made
    images: Images
    rungs: tuple[Rung, ...]
    predictions: npt.NDArray[np.int64]

    @property
    def steps(self) -> list[tuple[Rung, Change]]:
        """Each rung that ran, with its change from the one before."""
        return [(rung, rung.against_before) for rung in self.rungs if rung.against_before]

    @property
    def noisiest(self) -> Rung:
        """The rung that adds the most noise to the logits."""
        return max(self.steps, key=lambda step: _at_most_infinite(step[1].noise))[0]

    @property
    def flipped(self) -> npt.NDArray[np.int64]:
        """The images whose predicted class is not the same on all rungs."""
        differ = (self.predictions != self.predictions[0]).any(0)
        return np.flatnonzero(differ)

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes, or their numbers if they have no names."""
        names = self.images.data.classes
        return tuple(
            names[label] if label < len(names) else str(label)
            for label in range(len(self.rungs[0].correct))
        )

    def verdict(self) -> dict[str, Any]:
        """Find the rung that lost the most images, and whether the loss may be chance.

        It is the worst of several rungs, so its p-value is multiplied by their number
        (Bonferroni).
        """
        tested = [(rung, one.accuracy.paired) for rung, one in self.steps if one.accuracy.paired]
        rung, pair = max(tested, key=lambda each: each[1].lost - each[1].won)
        noisy = self.noisiest.against_before
        assert noisy is not None
        noise = "no rung changes the logits"
        if noisy.noise:
            noise = f"most noise enters at {self.noisiest.name} ({noisy.sqnr_db:.1f} dB)"
        if pair.lost <= pair.won:
            sentence = f"No rung has fewer correct images than the one before it; {noise}."
            return {"lost_most": None, "chance": None, "p_corrected": None, "sentence": sentence}
        corrected = min(1.0, pair.p_value * len(tested))
        chance = corrected >= 1 - LEVEL
        low, high = pair.interval_points
        sentence = (
            f"The largest loss is at {rung.name}: {pair.change_points:+.2f} points "
            f"({pair.lost} images lost, {pair.won} won; 95% interval {low:+.2f} to {high:+.2f}), "
            f"which {'may be' if chance else 'is not'} chance (p {pair.p_value:.2g}, "
            f"{corrected:.2g} corrected for {len(tested)} rungs); {noise}."
        )
        return {
            "lost_most": rung.name,
            "chance": chance,
            "p_corrected": corrected,
            "sentence": sentence,
        }

    def as_json(self) -> dict[str, Any]:
        """Return the ladder as JSON values; ``flipped`` lists images with each rung's class."""
        run = [rung.name for rung in self.rungs if rung.accuracy]
        labels = self.images.labels
        return {
            "artefact": str(self.made.artifact.path),
            "target": self.made.artifact.target,
            "precision": self.made.artifact.passport["precision"],
            "source": self.made.source.name,
            "data": self.images.data.name,
            "images": self.images.count,
            "graphs": self.made.graphs.as_json(),
            "classes": list(self.classes),
            "rungs": [rung.as_json() for rung in self.rungs],
            "verdict": {**self.verdict(), "most_noise": self.noisiest.name},
            "flipped": [
                {
                    "image": int(index),
                    "label": int(labels[index]),
                    "predictions": dict(
                        zip(run, map(int, self.predictions[:, index]), strict=True)
                    ),
                }
                for index in self.flipped
            ],
        }


def climb(
    artifact: Artifact,
    data_spec: str,
    *,
    limit: int | None = None,
    original: str | None = None,
    trust: Trust = NO_CODE,
    progress: Progress = silent,
) -> Ladder:
    """Measure every rung of an artifact, keeping the logits of at most three rungs in memory.

    Args:
        artifact: the artifact. Its passport decides which rungs there are.
        data_spec: as in :func:`exporter.data.datasets.load`; its test images are used.
        limit: use only this many images, from the first on.
        original: path of the Keras model, if it isn't where the passport says.
        trust: the code that we may run to load the original.
        progress: one bar per rung.

    Raises:
        WrongUse: as in :func:`benchmarks.accuracy.measure.evaluate`.
        ConversionError: the source can't be converted any more.
    """
    source = load_original([artifact], original, trust)
    images = Images.load(source, data_spec, limit, progress)
    made = Made(artifact, source, remake(artifact, source))
    rungs: list[Rung] = []
    predictions: list[npt.NDArray[np.int64]] = []
    keras: Logits | None = None
    before: Logits | None = None
    for step in made.steps:
        try:
            logits = _logits(step, made, images, progress)
        except Missing as error:
            rungs.append(Rung(step.name, step.what, not_run=_why(artifact, error.message)))
            continue
        keras = logits if keras is None else keras
        rungs.append(_measured(step, logits, images.labels, keras, before))
        predictions.append(logits.argmax(-1))
        before = logits
    return Ladder(made, images, tuple(rungs), np.stack(predictions))


def _logits(step: Step, made: Made, images: Images, progress: Progress) -> Logits:
    if step is KERAS:
        return original_logits(images, progress)
    with step.open(made) as runner:
        feeds = images.feeds(step.layout(made))
        return images.logits(runner, feeds, step.batch(made), step.name, progress)


def _why(artifact: Artifact, message: str) -> str:
    executed = artifact.passport.get(artifact.target, {}).get("executed")
    return f"{executed}: {message}" if isinstance(executed, str) else f"not run: {message}"


def _measured(
    step: Step, logits: Logits, labels: Labels, keras: Logits, before: Logits | None
) -> Rung:
    right = logits.argmax(-1) == labels
    correct = _by_class(labels[right], logits.shape[-1])
    scored = score(step.name, logits, labels)
    if before is None:
        return Rung(step.name, step.what, scored, correct)
    against_keras = changed(step.name, keras, logits, labels)
    against_before = changed(step.name, before, logits, labels)
    return Rung(step.name, step.what, scored, correct, against_keras, against_before)


def changed(name: str, reference: Logits, logits: Logits, labels: Labels) -> Change:
    """Compare one engine's logits with another's, both (images, classes)."""
    was, now = reference.argmax(-1) == labels, logits.argmax(-1) == labels
    classes = logits.shape[-1]
    return Change(
        score(name, logits, labels, reference),
        noise_ratio(reference, logits),
        _by_class(labels[now & ~was], classes),
        _by_class(labels[was & ~now], classes),
    )


def _by_class(labels: Labels, classes: int) -> tuple[int, ...]:
    return tuple(map(int, np.bincount(labels, minlength=classes)))


def _at_most_infinite(noise: float) -> float:
    return math.inf if math.isnan(noise) else noise
