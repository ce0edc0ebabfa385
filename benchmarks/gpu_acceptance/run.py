"""The second stage, on the GPU machine: build, classify, audit, time, judge. Needs no Keras.

Everything that it needs from the machine is in one :class:`Device`. Users get :data:`GPU`. Tests
put onnxruntime in its place. That shows that everything around the engine works, and nothing about
a GPU.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import result_file
from benchmarks.accuracy import measure as accuracy
from benchmarks.accuracy.measure import Accuracy, Logits
from benchmarks.gpu_acceptance.expectations import Figures, judge
from benchmarks.gpu_acceptance.handover import KERAS, Case, Prepared
from benchmarks.latency import bench as latency
from benchmarks.latency.bench import Plan
from benchmarks.latency.engines import feeder
from benchmarks.latency.result import Report
from exporter import targets
from exporter.artifact.folder import Artifact
from exporter.data import datasets
from exporter.engines import inspection
from exporter.engines.audit import Audit
from exporter.engines.record import FIELD
from exporter.errors import ExporterError, Missing
from exporter.finish import finish
from exporter.machine.gpus import find_gpus
from exporter.models.preprocessing import preprocess
from exporter.network.agreement import compare
from exporter.network.runner import Runner
from exporter.progress import Progress, silent

BATCH = 32
# What the report repeats from the first stage.
_PREPARED = ("date", "machine", "versions", "images")


@dataclass(frozen=True)
class Device:
    """What the second stage needs from a machine.

    Attributes:
        executed: what runs the engines, in the words of the page.
        build: makes a copied artifact's engine, in place.
        open: returns its runner.
        audit: reads its layers; returns None if they are not recorded.
        time: times engines of one network side by side, the first as the baseline.
    """

    executed: str
    build: Callable[[Path, Progress], Artifact]
    open: Callable[[Artifact], Runner]
    audit: Callable[[Artifact], Audit | None]
    time: Callable[[Sequence[Artifact], Plan, Progress], Report]


GPU = Device(
    "TensorRT on this machine's GPU",
    # Always built anew: an engine that came with the folder would be untrusted code.
    build=lambda path, progress: finish(path, force=True, progress=progress),
    open=targets.open_artifact,
    audit=lambda one: inspection.inspect(one.path).audit,
    time=lambda made, plan, progress: latency.bench(made, plan, (), progress=progress),
)


@dataclass(frozen=True)
class Engine:
    """One engine and everything that was found out about it."""

    figures: Figures
    artifact: Artifact | None = None
    accuracy: Accuracy | None = None

    def as_json(self) -> dict[str, Any]:
        """Return its entry in the report."""
        figures, made = self.figures, self.artifact
        passport = {} if made is None else made.passport
        return {
            "model": figures.model,
            "precision": figures.precision,
            "failed": figures.failed,
            "accuracy": self.accuracy and self.accuracy.as_json(),
            "against_simulation": figures.simulation and figures.simulation.as_json(),
            "audit": figures.audit and figures.audit.as_json(),
            "engine": passport.get(FIELD),
            "build": passport.get("trt"),
            "files": passport.get("files"),
        }


def run(
    prepared: Prepared,
    work: Path,
    plan: Plan,
    device: Device = GPU,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Try every engine and judge it by the expectations.

    Args:
        prepared: by the first stage; not changed.
        work: an empty folder for the engines.
        plan: of the latencies; its data set is the prepared one.
        device: what runs the engines.
        progress: told of every build, batch and block.

    Returns:
        The report as JSON values.

    Raises:
        Missing: TensorRT, CUDA or a GPU is missing. Any other error of an engine becomes a row of
            the report.
    """
    plan = replace(plan, data=prepared.spec)
    engines: list[Engine] = []
    timed: dict[str, Report | None] = {}
    for case in prepared.cases:
        made = [_try(case, name, prepared, work, device, progress) for name in case.artefacts]
        report = timed[case.model] = _time(made, plan, device, progress)
        engines += _with_speed(made, report, plan)
    rows = judge([engine.figures for engine in engines])
    return {
        **result_file.header("gpu_acceptance"),
        "rehearsed": device is not GPU,
        "executed": device.executed,
        "parts": [_as_part(engines)],
        "gpu": asdict(find_gpus()),
        "prepared": {key: prepared.about[key] for key in _PREPARED},
        "references": {case.model: references(case, prepared) for case in prepared.cases},
        "engines": [engine.as_json() for engine in engines],
        "latency": {model: found and found.as_json() for model, found in timed.items()},
        "expectations": [row.as_json() for row in rows],
    }


def _as_part(engines: Sequence[Engine]) -> dict[str, str]:
    """Return the whole run as one part, in the form of a bare run's parts."""
    failed = next((engine.figures.failed for engine in engines if engine.figures.failed), None)
    return {
        "name": "tensorrt",
        "status": "ok" if failed is None else "failed",
        "reason": failed or "",
    }


def references(case: Case, prepared: Prepared) -> list[dict[str, Any]]:
    """Score Keras and the simulations. Their logits came with the folder."""
    keras, labels = case.logits[KERAS], prepared.images.labels
    rows = [accuracy.score(KERAS, keras, labels)]
    rows += [
        accuracy.score(f"{name}, simulated on a CPU", case.logits[name], labels, keras)
        for name in case.artefacts
    ]
    return [{**row.as_json(), "flips": None} for row in rows]


def _try(
    case: Case, precision: str, prepared: Prepared, work: Path, device: Device, progress: Progress
) -> Engine:
    """Build one engine and classify with it; an error becomes a figure."""
    given = case.artefacts[precision]
    count = len(prepared.images)
    figures = Figures(
        case.model,
        precision,
        count,
        prepared.test_images,
        graph_convolutions=given.passport["graph"]["ops"].get("Conv", 0),
    )
    place = work / given.path.name
    shutil.copytree(given.path, place, symlinks=True)  # links out of the folder are refused later
    try:
        made = device.build(place, progress)
        got = classify(made, prepared.images, device.open, progress)
    except Missing:
        raise
    except ExporterError as error:
        return Engine(replace(figures, failed=f"{error}"))
    try:
        figures = replace(figures, audit=device.audit(made))
    except ExporterError as error:
        figures = replace(figures, no_audit=f"{error}")
    keras = case.logits[KERAS]
    scored = accuracy.score(precision, got, prepared.images.labels, keras)
    simulation = compare(case.logits[precision], got)
    return Engine(replace(figures, paired=scored.paired, simulation=simulation), made, scored)


def classify(
    one: Artifact,
    data: datasets.Dataset,
    opened: Callable[[Artifact], Runner],
    progress: Progress = silent,
) -> Logits:
    """Return the logits of all images, (images, classes), at the size in the passport."""
    recorded = one.passport["preprocessing"]
    size = (recorded["resize"]["height"], recorded["resize"]["width"])
    output = one.passport["graph"]["outputs"][0]["name"]
    feed, parts, done = feeder(one), [], 0
    with opened(one) as runner:
        for pixels, _ in datasets.batches(data, size, BATCH):
            got = runner.infer(feed(preprocess(recorded["name"], pixels)))[output]
            parts.append(got.reshape(len(pixels), -1).astype(np.float32))
            done += len(pixels)
            progress(one.path.name, done, len(data))
    return np.concatenate(parts)


def _time(made: Sequence[Engine], plan: Plan, device: Device, progress: Progress) -> Report | None:
    """Time a network's engines side by side. Return None unless all of them run."""
    ready = [engine.artifact for engine in made if engine.artifact is not None]
    return device.time(ready, plan, progress) if len(ready) == len(made) else None


def _with_speed(made: Sequence[Engine], report: Report | None, plan: Plan) -> list[Engine]:
    """Add to each engine but the first its ratios to the first, or why it has none."""
    first, *others = made
    return [first, *(replace(one, figures=_speed(one, report, plan)) for one in others)]


def _speed(engine: Engine, report: Report | None, plan: Plan) -> Figures:
    if report is None or engine.artifact is None:
        missing = dict.fromkeys(plan.batches, "one of the two engines did not run")
        return replace(engine.figures, no_speedup=missing)
    rows = [row for row in report.rows if row.engine == str(engine.artifact.path)]
    return replace(
        engine.figures,
        speedup={row.batch: row.speedup for row in rows if row.speedup is not None},
        no_speedup={
            row.batch: row.error or "the FP16 engine could not be timed"
            for row in rows
            if row.speedup is None
        },
        unstable=report.unstable,
    )
