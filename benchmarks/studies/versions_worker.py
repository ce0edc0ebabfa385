"""Run one graph on prepared inputs, in an environment that has only numpy and onnxruntime.

It is started as a file and not as a module, because nothing of this project can be imported there.
It reads a :class:`Job` as JSON from standard input and prints a JSON object.
"""

from __future__ import annotations

import json
import platform
import sys
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Job:
    """One graph to run on all images.

    Attributes:
        rung: its name.
        graph: path of an ONNX file with one input and one output.
        feeds: path of a ``.npy`` file, (images, ...), as the graph takes them.
        batch: images a run.
        as_written: turn every graph optimization off.
        threads: of onnxruntime.
        providers: of its session.
        disabled: the optimizers that the product turns off.
    """

    rung: str
    graph: str
    feeds: str
    batch: int
    as_written: bool
    threads: int
    providers: tuple[str, ...]
    disabled: tuple[str, ...]

    @property
    def logits(self) -> str:
        """Path where the logits go, (images, classes) float32."""
        return f"{self.graph}.npy"

    @property
    def executed(self) -> str:
        """Path where the graph goes that onnxruntime executes."""
        return f"{self.graph}.executed.onnx"


def work(job: Job) -> dict[str, Any]:
    """Write the logits and the executed graph.

    Returns:
        ``versions`` of what ran; ``refused``: onnxruntime's message if it refused, or None.
    """
    import onnxruntime

    versions = {
        "onnxruntime": onnxruntime.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
    }
    try:
        np.save(job.logits, _logits(onnxruntime, job))
    except Exception as error:  # onnxruntime's exceptions have no common public base
        return {"versions": versions, "refused": str(error) or repr(error)}
    return {"versions": versions, "refused": None}


def _logits(onnxruntime: Any, job: Job) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = job.threads
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # nothing is timed
    if job.as_written:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.optimized_model_filepath = job.executed
    session = onnxruntime.InferenceSession(
        job.graph, options, providers=job.providers, disabled_optimizers=job.disabled
    )
    images = np.load(job.feeds, mmap_mode="r")
    name, output = session.get_inputs()[0].name, session.get_outputs()[0].name
    parts = []
    for start in range(0, len(images), job.batch):
        # The last batch is filled up, because some graphs take only one batch size.
        rows = np.minimum(np.arange(start, start + job.batch), len(images) - 1)
        (logits,) = session.run([output], {name: images[rows]})
        parts.append(logits[: len(images) - start])
    return np.concatenate(parts)


if __name__ == "__main__":
    json.dump(work(Job(**json.load(sys.stdin))), sys.stdout)
