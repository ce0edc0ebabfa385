"""A deliberate load on the GPU: one matrix product after the other, in a process of its own."""

from __future__ import annotations

import json
import time

from benchmarks.gpu_acceptance.parts.peak import SIZE, product
from benchmarks.latency import worker


def answer(job: str) -> worker.Answer:
    """Multiply for so many seconds.

    Args:
        job: the seconds, as JSON.
    """
    seconds = float(json.loads(job))
    multiply = product("fp16", SIZE["cuda"], "cuda")
    count, end = 0, time.perf_counter() + seconds
    while time.perf_counter() < end:
        multiply()
        count += 1
    return {"products": count}
