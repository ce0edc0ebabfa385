"""What the versions matrix runs: graphs and images as files, and a worker that reads them."""

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
from benchmarks.studies.versions_worker import Job
from exporter.errors import ExporterError, Missing

_MOST_WORDS = 300


@dataclass(frozen=True)
class Answer:
    """What a version of the runtime made of a job.

    Attributes:
        versions: by package.
        logits: (images, classes); None if it refused.
        ops: of the executed graph, counted.
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

    Every version reads the same bytes, so every difference comes from the runtime. ``rungs``: only
    these, if there are any.
    """
    from exporter.targets.ort import NOT_THESE, PROVIDERS, OrtRunner

    found = []
    for step in (step for step in made.steps if not rungs or step.name in rungs):
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
        batch, setting = step.batch(made) or BATCH, (tuple(PROVIDERS), tuple(NOT_THESE))
        files = (str(graph), str(feeds))
        found.append(Job(step.name, *files, batch, runner.as_written, threads, *setting))
    return found


def _write_feeds(images: Images, layout: Any, path: Path) -> None:
    """Write all images into one array on disk, a batch at a time."""
    (image,) = next(images.feeds(layout, limit=1)).values()
    shape = (images.count, *image.shape[1:])
    array = np.lib.format.open_memmap(path, "w+", image.dtype, shape)
    for start, feed in zip(range(0, images.count, BATCH), images.feeds(layout), strict=True):
        (array[start : start + BATCH],) = feed.values()
    array.flush()


def run_with(python: Path, job: Job) -> Answer:
    """Run a job in the environment of a Python.

    Raises:
        ExporterError: the worker can't even start there.
    """
    given, line = json.dumps(asdict(job)), [str(python), versions_worker.__file__]
    done = subprocess.run(line, input=given, capture_output=True, text=True, check=False)
    if done.returncode < 0:
        return Answer({}, refused=f"it crashed with signal {-done.returncode}")
    if done.returncode:
        raise ExporterError(f"{python} can't run the worker:\n{done.stderr[-2000:]}")
    said = json.loads(done.stdout)
    if said["refused"] is not None:
        return Answer(said["versions"], refused=said["refused"][:_MOST_WORDS])
    return Answer(said["versions"], np.load(job.logits), count_ops(job.executed))


def count_ops(graph: str) -> dict[str, int]:
    """Count the ops of a graph. Those of onnxruntime's own domains have their full name."""
    import onnx

    nodes = onnx.load(graph, load_external_data=False).graph.node
    names = (f"{node.domain}::{node.op_type}" if node.domain else node.op_type for node in nodes)
    return dict(sorted(Counter(names).items()))
