"""Part f: does TensorRT-RTX build for this card, load its plan and run INT8 and FP16?

Its documents name compute capability 7.5, 8.6, 8.9 and 12.x, but not Hopper's 9.0. Its messages are
kept word for word beside what ``doctor`` predicted.
"""

from __future__ import annotations

import importlib
import json
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.gpu_acceptance import handover
from benchmarks.gpu_acceptance.handover import Case, Prepared
from benchmarks.gpu_acceptance.parts import Task, latency
from benchmarks.gpu_acceptance.parts.accuracy import figures
from benchmarks.gpu_acceptance.parts.engines import Variant
from benchmarks.gpu_acceptance.run import classify
from benchmarks.latency import worker
from exporter import diagnosis as doctor
from exporter import targets
from exporter.artifact import folder as artifact
from exporter.artifact.folder import MODEL, Artifact
from exporter.config import Batch, BuildOptions, Precision
from exporter.engines import here
from exporter.errors import ExporterError, Missing

PRECISIONS: tuple[Precision, ...] = ("fp16", "int8")
BATCH = Batch(1, 8, 256)
_TIMED = "resnet18"
_TIMED_S = 20.0


def answer(job: str) -> worker.Answer:
    """Build, load and run both precisions of every network.

    Raises:
        Missing: TensorRT-RTX or a GPU is missing.
    """
    task = Task.from_json(job)
    row = targets.lookup("trt-rtx")
    row.load()  # raises Missing if it is not installed
    machine = here.this_machine("tensorrt_rtx")
    if machine.compute_capability is None:
        raise Missing("no NVIDIA GPU is here to build for", hint="see nvidia-smi")
    prepared = handover.read(task.folder)
    library = importlib.import_module("tensorrt_rtx")
    rows = [
        _try(case, precision, prepared, task.work, machine.compute_capability)
        for case in prepared.cases
        for precision in PRECISIONS
    ]
    failed = [row["error"] for row in rows if "error" in row]
    found = {
        "version": library.__version__,
        "machine": asdict(machine),
        "predicted": predicted(prepared.cases[0], task.work / "predicted"),
        "rows": rows,
    }
    return {**found, "failed": failed[0]} if len(failed) == len(rows) else found


def predicted(case: Case, place: Path) -> str:
    """Return what ``doctor`` says about a plan for the builder's default GPUs on this machine."""
    try:
        return doctor.engine_fit(build(case.artefacts[PRECISIONS[0]], place, None)).verdict
    except ExporterError as error:
        return f"nothing: {error.message}"


def _try(
    case: Case, precision: Precision, prepared: Prepared, work: Path, capability: str
) -> dict[str, Any]:
    """Build and run one engine. An error becomes part of its row."""
    row: dict[str, Any] = {"model": case.model, "variant": precision, "capability": capability}
    try:
        made = _build_either(case.artefacts[precision], work / f"{case.model}-{precision}", row)
        fit = doctor.engine_fit(made)
        row["doctor"] = fit.verdict
        got = classify(made, prepared.images, partial(targets.open_artifact))
    except ExporterError as error:
        return {**row, "error": f"{error}"}
    logits = dict(case.logits)
    row |= figures(Variant(precision, precision), got, logits, prepared.images.labels)
    if case.model == _TIMED:
        engine = latency.Engine(case.model, precision, str(made.path), True, "cuda")
        job = json.dumps(asdict(engine))
        row["latency"] = worker.ask(f"{latency.__name__}:time_one", job, _TIMED_S)
    return row


def _build_either(given: Artifact, place: Path, row: dict[str, Any]) -> Artifact:
    """Build for this card. If the builder doesn't know it, build for the builder's default GPUs.

    Args:
        given: whose graph it is.
        place: a folder that is not there yet.
        row: has the card's ``capability``; gets the builder's message as ``refused``.
    """
    try:
        return build(given, place, row["capability"])
    except ExporterError as error:
        row["refused"] = error.message
        return build(given, place, None)


def build(given: Artifact, place: Path, capability: str | None) -> Artifact:
    """Build a graph's plan for this card, as an artifact of ``trt-rtx``.

    Args:
        given: whose graph it is.
        place: a folder that is not there yet.
        capability: of the card, such as "9.0"; None for the builder's default GPUs.
    """
    options = BuildOptions(compute_capabilities=(capability,) if capability else ())
    precision = given.passport["precision"]
    with artifact.writing(place, force=False) as folder:
        (folder / MODEL).write_bytes(given.read_bytes(MODEL))
        asked = targets.Build(BATCH, precision, options)
        compiled = targets.lookup("trt-rtx").load().compile(folder, asked)
        kept = {n: value for n, value in given.passport.items() if n not in ("files", "format")}
        fields = {**kept, "target": "trt-rtx", **compiled.fields("trt-rtx")}
        sealed = artifact.seal(folder, fields)
    return Artifact(place, sealed)
