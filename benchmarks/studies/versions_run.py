"""What the versions matrix runs: graphs and images as files, and a worker that takes them."""

from __future__ import annotations

import json
import subprocess
from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.accuracy.measure import BATCH, Images, Logits
from benchmarks.drift.ladder import Made
from benchmarks.studies import versions_worker
from exporter.errors import ExporterError, Missing

_MOST_WORDS = 300


@dataclass(frozen=True)
class Job:
    """One graph to run on all images, as :mod:`benchmarks.studies.versions_worker` takes it.

    Attributes:
        rung: its name.
        graph: an ONNX file with one input and one output.
        feeds: ``.npy``, (images, ...), as the graph takes them.
        batch: images a run.
        as_written: every graph optimization off.
        threads: of onnxruntime.
        providers: of its session.
        disabled: the optimizers that the product turns off.
    """

    rung: str
    graph: Path
    feeds: Path
    batch: int
    as_written: bool
    threads: int
    providers: tuple[str, ...]
    disabled: tuple[str, ...]


@dataclass(frozen=True)
class Answer:
    """What a version of the runtime made of a job.

    Attributes:
        versions: of what ran, by package.
        logits: (images, classes); None where it refused.
        ops: of the graph that was executed, counted.
        refused: why.
    """

    versions: dict[str, str]
    logits: Logits | None = None
    ops: dict[str, int] | None = None
    refused: str | None = None


Runtime = Callable[[Job], Answer]


def jobs(
    made: Made, images: Images, folder: Path, threads: int, rungs: Collection[str] = ()
) -> list[Job]:
    """Write the graphs of the rungs that onnxruntime runs, and the images, into a folder.

    Every version reads the same bytes, so what differs is the runtime's. ``rungs``: only these,
    where there are any.
    """
    from exporter.targets.ort import NOT_THESE, PROVIDERS, OrtRunner

    found = []
    for step in made.steps:
        if rungs and step.name not in rungs:
            continue
        try:
            runner = step.open(made)
        except Missing:  # a TensorRT engine that is not compiled
            continue
        if not isinstance(runner, OrtRunner):
            continue
        graph = folder / f"{step.name}.onnx"
        graph.write_bytes(runner.graph)
        feeds = folder / f"images-{step.layout(made)}.npy"
        if not feeds.exists():
            _write_feeds(images, step.layout(made), feeds)
        batch = step.batch(made) or BATCH
        shared = {"providers": tuple(PROVIDERS), "disabled": tuple(NOT_THESE)}
        found.append(Job(step.name, graph, feeds, batch, runner.as_written, threads, **shared))
    return found


def _write_feeds(images: Images, layout: Any, path: Path) -> None:
    """Write all images in one array on disk, a batch at a time."""
    array = None
    done = 0
    for feed in images.feeds(layout):
        ((_, batch),) = feed.items()
        if array is None:
            shape = (images.count, *batch.shape[1:])
            array = np.lib.format.open_memmap(path, "w+", batch.dtype, shape)
        array[done : done + len(batch)] = batch
        done += len(batch)
    assert array is not None
    array.flush()


def run_with(python: Path, job: Job) -> Answer:
    """Run a job in the environment of a Python.

    Raises:
        ExporterError: the worker can't even start there.
    """
    logits, executed = (job.graph.with_suffix(ending) for ending in (".npy", ".executed.onnx"))
    given = {name: _plain(value) for name, value in asdict(job).items()}
    note = job.graph.with_suffix(".json")
    note.write_text(json.dumps({**given, "logits": str(logits), "executed": str(executed)}))
    command = [str(python), versions_worker.__file__, str(note)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode < 0:
        return Answer({}, refused=f"it crashed with signal {-done.returncode}")
    if done.returncode:
        raise ExporterError(f"{python} can't run the worker:\n{done.stderr[-2000:]}")
    said = json.loads(done.stdout)
    if said["refused"] is not None:
        return Answer(said["versions"], refused=said["refused"][:_MOST_WORDS])
    return Answer(said["versions"], np.load(logits), count_ops(executed))


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, Path) else value


def count_ops(graph: Path) -> dict[str, int]:
    """Count the ops of a graph, those of onnxruntime's own domains by their full name."""
    import onnx

    nodes = onnx.load(graph, load_external_data=False).graph.node
    names = (f"{node.domain}::{node.op_type}" if node.domain else node.op_type for node in nodes)
    return dict(sorted(Counter(names).items()))
