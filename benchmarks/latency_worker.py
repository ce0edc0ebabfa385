"""Time one ONNX graph in onnxruntime, in a process that holds nothing else.

Two engines' spinning thread pools in one process ruin each other's timing; so whoever compares
engines starts this module once for every block: see :func:`time_apart`.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

WARM_UP_S = 0.3
MIN_RUNS = 10


@dataclass(frozen=True)
class Block:
    """What to time.

    Attributes:
        graph: an ONNX file with one image input.
        batch: images a run.
        threads: of onnxruntime.
        seconds: how long to measure, after a warm-up.
    """

    graph: Path
    batch: int
    threads: int
    seconds: float


def measure(block: Block) -> dict[str, Any]:
    """Time a graph in this process, which must be fresh.

    Returns:
        ``runs``, and of one run ``median_ms`` and ``p99_ms``.
    """
    import numpy as np
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = block.threads
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        str(block.graph), options, providers=["CPUExecutionProvider"]
    )
    (port,) = session.get_inputs()
    shape = (block.batch, *port.shape[1:])
    feeds = {port.name: np.random.default_rng(0).random(shape, np.float32)}
    _repeat(session, feeds, WARM_UP_S)
    times = sorted(_repeat(session, feeds, block.seconds))
    return {
        "runs": len(times),
        "median_ms": 1000 * statistics.median(times),
        "p99_ms": 1000 * times[min(len(times) - 1, int(0.99 * len(times)))],
    }


def _repeat(session: Any, feeds: dict[str, Any], seconds: float) -> list[float]:
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < MIN_RUNS or time.perf_counter() < end:
        started = time.perf_counter()
        session.run(None, feeds)
        times.append(time.perf_counter() - started)
    return times


def time_apart(block: Block) -> dict[str, Any]:
    """Run :func:`measure` in a fresh process.

    Raises:
        RuntimeError: it failed; shows the end of what it said.
    """
    wanted = json.dumps({**asdict(block), "graph": str(block.graph)})
    command = [sys.executable, "-m", "benchmarks.latency_worker", wanted]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"timing {block.graph} failed:\n{done.stderr[-2000:]}")
    sample: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return sample


if __name__ == "__main__":
    given = json.loads(sys.argv[1])
    print(json.dumps(measure(Block(**{**given, "graph": Path(given["graph"])}))))
