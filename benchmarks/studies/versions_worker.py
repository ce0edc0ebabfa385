"""Run one graph on prepared inputs, in an environment that has numpy and onnxruntime, no more.

Started as a file, not as a module: nothing of this project is importable there. It is given one
JSON object (the fields of :class:`benchmarks.studies.versions_run.Job`) and prints another.
"""

from __future__ import annotations

import json
import platform
import sys
from pathlib import Path
from typing import Any

import numpy as np


def work(job: dict[str, Any]) -> dict[str, Any]:
    """Write the logits, (images, classes) float32, and the graph that was executed.

    Returns:
        ``versions`` of what ran; ``refused`` with onnxruntime's words where it did not.
    """
    import onnxruntime

    versions = {
        "onnxruntime": onnxruntime.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
    }
    try:
        np.save(job["logits"], _logits(onnxruntime, job))
    except Exception as error:  # onnxruntime's exceptions have no common public base
        return {"versions": versions, "refused": str(error) or repr(error)}
    return {"versions": versions, "refused": None}


def _logits(onnxruntime: Any, job: dict[str, Any]) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = job["threads"]
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # nothing is timed
    if job["as_written"]:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.optimized_model_filepath = job["executed"]
    session = onnxruntime.InferenceSession(
        job["graph"],
        options,
        providers=job["providers"],
        disabled_optimizers=job["disabled"],
    )
    images = np.load(job["feeds"], mmap_mode="r")
    name, output = session.get_inputs()[0].name, session.get_outputs()[0].name
    parts = []
    for start in range(0, len(images), job["batch"]):
        # The last batch is filled up, for a graph may take one size only.
        rows = np.minimum(np.arange(start, start + job["batch"]), len(images) - 1)
        (logits,) = session.run([output], {name: images[rows]})
        parts.append(logits[: len(images) - start])
    return np.concatenate(parts)


if __name__ == "__main__":
    json.dump(work(json.loads(Path(sys.argv[1]).read_text())), sys.stdout)
