"""Run artifacts and their Keras originals for the gate, and compare with the baseline."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.accuracy import measure as accuracy
from benchmarks.gate.baseline import Baseline
from benchmarks.gate.facts import Facts, Run, key_of, read_facts
from benchmarks.gate.report import Checked
from benchmarks.gate.verdict import judge
from exporter import targets
from exporter.artifact.folder import Artifact
from exporter.config import NO_CODE, Trust
from exporter.data import datasets
from exporter.engines.record import FIELD
from exporter.errors import Missing, WrongUse
from exporter.machine.gpus import find_gpus
from exporter.network.runner import Runner
from exporter.progress import Progress, silent


@dataclass(frozen=True)
class Images:
    """The images to run: ``data`` as in :func:`exporter.data.datasets.load`; no limit: all."""

    data: str
    limit: int | None = None


def measure(
    artifacts: Sequence[Artifact],
    images: Mapping[int, Images],
    *,
    original: Any = None,
    trust: Trust = NO_CODE,
    progress: Progress = silent,
) -> list[Facts]:
    """Read the facts of all artifacts, and run those that have images.

    Args:
        artifacts: artifacts of any models.
        images: by index in ``artifacts``. Artifacts of one network on the same images share one
            run of Keras.
        original: as in :func:`benchmarks.accuracy.measure.evaluate`.
        trust: the code that we may run to load the original.
        progress: one bar per engine.

    Raises:
        As in `benchmarks.gate.facts.read_facts` and `benchmarks.accuracy.measure.evaluate`.
    """
    facts = [read_facts(artifact) for artifact in artifacts]
    groups: dict[tuple[str, Images], list[int]] = {}
    for index, wanted in images.items():
        groups.setdefault((facts[index].source, wanted), []).append(index)
    for (_, wanted), members in groups.items():
        chosen = [artifacts[index] for index in members]
        rows = accuracy.evaluate(
            chosen,
            wanted.data,
            limit=wanted.limit,
            original=original,
            trust=trust,
            opened=open_here,
            progress=progress,
        )
        digest, truth = _hashed(chosen[0], wanted, progress)
        for index, row in zip(members, rows[1:], strict=True):
            against = row.against_keras
            assert against is not None
            assert row.predicted is not None
            assert rows[0].predicted is not None
            run = Run(
                wanted.data,
                digest,
                _runtime(artifacts[index]),
                row.predicted,
                rows[0].predicted,
                against.mean_abs_error,
                against.max_relative_error,
                truth,
            )
            facts[index] = replace(facts[index], runs={kind_of_run(artifacts[index]): run})
    return facts


def choose_images(
    artifacts: Sequence[Artifact],
    book: Baseline,
    data: str | None,
    limit: int | None,
    *,
    update: bool,
) -> dict[int, Images]:
    """Choose the images for each artifact: ``data`` or, without it, those of its baseline.

    Raises:
        WrongUse: for ``update``, neither of them names images; or there is ``data``, but an entry
            has no accuracy.
    """
    chosen = {}
    for index, artifact in enumerate(artifacts):
        entry = book.entries.get(key_of(artifact))
        old = None if entry is None else entry.runs.get(kind_of_run(artifact))
        if update and data is None and old is None:
            raise WrongUse(
                f"there are no test images for {artifact.path}",
                hint="name them with --data, or skip accuracy with --graph-only",
            )
        if not update and data is not None and entry is not None and not entry.runs:
            raise WrongUse(
                f"--data needs a baseline with accuracy, but that of {artifact.path} was made with "
                "--graph-only",
                hint="leave out --data, or measure accuracy with --update",
            )
        if update and data is not None:
            chosen[index] = Images(data, limit)
        elif old is not None:
            chosen[index] = Images(data or old.data, limit or len(old.predicted))
    return chosen


def compare(
    artifacts: Sequence[Artifact],
    facts: Sequence[Facts],
    book: Baseline,
    path: Path,
    *,
    update: bool,
    graph_only: bool = False,
) -> list[Checked]:
    """Compare each artifact with its entry; report a missing entry or kind of run.

    Raises:
        WrongUse: two artifacts have the same entry; or, in a check, the entry is of another model
            or was measured on other images.
    """
    results: list[Checked] = []
    for artifact, now in zip(artifacts, facts, strict=True):
        place = str(artifact.path)
        if update:
            if now.key in [one.key for one in results]:
                raise WrongUse(f"two artifacts have the same entry: {place} is also {now.key}")
            old = book.entries.get(now.key)
            missing = None if old else "a new entry"
        else:
            try:
                old, missing = book.entry(now, path), None
            except Missing as error:
                old, missing = None, error.message
        if old is not None and not update:
            _check_same_images(old, now)
            if not graph_only and old.runs and not now.runs:
                missing = _no_figures(old, now, artifact)
        findings = () if old is None else tuple(judge(old, now, book.tolerances))
        results.append(Checked(place, now.key, findings, missing))
    return results


def _no_figures(old: Facts, now: Facts, artifact: Artifact) -> str:
    kind, known = kind_of_run(artifact), " and ".join(sorted(old.runs))
    return (
        f"accuracy was not compared: the baseline of {now.key} was measured as {known}, but "
        f"here it runs as {kind}. Measure it here with --update --data"
    )


def _check_same_images(before: Facts, now: Facts) -> None:
    """Check that the predictions are on the same images.

    Raises:
        WrongUse: they are not. The message names the data and the number of the baseline's images.
    """
    for kind, run in now.runs.items():
        old = before.runs.get(kind)
        if old is not None and old.data_sha256 != run.data_sha256:
            raise WrongUse(
                f"{now.key}: the baseline used {len(old.predicted)} other images "
                f"({old.data}, SHA-256 {old.data_sha256[:12]}; here {run.data_sha256[:12]})",
                hint="name the same images with --data, or accept the new ones with --update",
            )


def kind_of_run(artifact: Artifact) -> str:
    """Return ``simulated`` if the engine needs a GPU that is not here, otherwise ``engine``."""
    elsewhere = "compiled" in artifact.passport.get(artifact.target, {}) and not _has_engine_here(
        artifact
    )
    return "simulated" if elsewhere or targets.simulates(artifact) else "engine"


def open_here(artifact: Artifact) -> Runner:
    """Open an artifact's engine, or simulate its graph if the engine can't run here."""
    if kind_of_run(artifact) == "engine" or targets.simulates(artifact):
        return targets.open_artifact(artifact)
    return open_simulated(artifact)


def open_simulated(artifact: Artifact) -> Runner:
    """Open an artifact's graph as written, even if it has an engine."""
    as_graph = Artifact(artifact.path, {**artifact.passport, "target": "onnx"})
    return targets.open_artifact(as_graph)


def _has_engine_here(artifact: Artifact) -> bool:
    return bool(artifact.passport[artifact.target]["compiled"]) and bool(find_gpus().devices)


def _runtime(artifact: Artifact) -> str:
    """Name the runtime, with its version if the passport or the installation has it."""
    from exporter.machine.versions import installed_versions

    versions = installed_versions()
    if kind_of_run(artifact) == "simulated" or targets.lookup(artifact.target).on_onnxruntime:
        return f"onnxruntime {versions['onnxruntime'] or versions['onnxruntime-gpu']}"
    engine = artifact.passport.get(FIELD)
    version = engine["tensorrt"] if engine else artifact.passport[artifact.target].get("version")
    return f"{artifact.target} {version or 'unknown'}"


def _hashed(artifact: Artifact, wanted: Images, progress: Progress) -> tuple[str, datasets.Labels]:
    """Hash images and labels at the network's size; return the hash and the labels."""
    data = datasets.load(wanted.data, "test", progress)
    resize = artifact.passport["preprocessing"]["resize"]
    size = (resize["height"], resize["width"])
    digest = hashlib.sha256()
    for pixels, labels in datasets.batches(data, size, accuracy.BATCH, wanted.limit):
        digest.update(pixels.tobytes())
        digest.update(labels.astype("<i8").tobytes())
    return digest.hexdigest(), data.labels[: wanted.limit]
