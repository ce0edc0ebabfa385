"""Run a function in a process of its own: a job goes in as JSON, one object comes out.

What needs a fresh process (a timing, a peak of memory), or may take its process along (another
maker's converter), is asked for through here: ``python -m benchmarks.worker MODULE:FUNCTION``
reads the job. The answer is the last line of standard output; libraries may print whatever they
like before it.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from json import JSONDecodeError
from typing import Any

from exporter.errors import ExporterError

Answer = dict[str, Any]


def ask(
    function: str,
    job: str,
    limit_s: float | None = None,
    environment: Mapping[str, str] | None = None,
    *,
    with_children: bool = False,
) -> Answer:
    """Run a function in a process that does not outlive this call.

    Args:
        function: ``MODULE:FUNCTION``; it takes the job and returns an :data:`Answer`.
        job: what it reads.
        limit_s: how long it may take; None: as long as it does.
        environment: variables beside those of this process.
        with_children: end the processes that it started too, where it takes too long.

    Returns:
        What it answered; ``error`` (and ``hint``) where it refused, died or took too long.
    """
    with subprocess.Popen(
        [sys.executable, "-m", "benchmarks.worker", function],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **(environment or {})},
        start_new_session=with_children,  # a group of its own, which can be ended as one
    ) as worker:
        try:
            out, said = worker.communicate(job, timeout=limit_s)
        except subprocess.TimeoutExpired:
            return {"error": f"took longer than {limit_s:.0f} s"}
        finally:  # Ctrl-C too
            with contextlib.suppress(ProcessLookupError):
                if with_children:
                    os.killpg(worker.pid, signal.SIGKILL)
                worker.kill()
                worker.wait()
    lines = out.strip().splitlines()
    try:
        answer: Answer = json.loads(lines[-1]) if worker.returncode == 0 else {}
    except (IndexError, JSONDecodeError):
        answer = {}
    if not answer:
        last = said.strip().splitlines()[-1:] or ["it said nothing"]
        answer = {"error": f"ended with {worker.returncode}: {last[0][:500]}"}
    return answer


def need(function: str, job: str) -> Answer:
    """Run a function as :func:`ask` does, without which there is nothing to go on with.

    Raises:
        ExporterError: it refused or died.
    """
    answer = ask(function, job)
    if "error" in answer:
        raise ExporterError(answer["error"], hint=answer.get("hint"))
    return answer


def serve(function: str) -> None:
    """Answer the one job of this process; a refusal goes out as ``error`` and ``hint``."""
    module, name = function.split(":")
    do: Callable[[str], Answer] = getattr(import_module(module), name)
    try:
        answer = do(sys.stdin.read())
    except ExporterError as error:
        answer = {"error": error.message, "hint": error.hint}
    print("\n" + json.dumps(answer))


if __name__ == "__main__":
    serve(sys.argv[1])
