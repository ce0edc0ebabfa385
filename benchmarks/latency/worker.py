"""Run a function in its own process: a JSON job goes in, one JSON object comes out.

Use it for work that needs a fresh process (a timing, a memory peak) or may crash its process (a
third-party converter). ``python -m benchmarks.latency.worker MODULE:FUNCTION`` reads the job. The
answer is the last line of standard output; libraries may print anything before it.
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
        job: the job, as text.
        limit_s: how long it may take; None: no limit.
        environment: variables to add to this process's environment.
        with_children: if it takes too long, also end the processes that it started.

    Returns:
        Its answer; ``error`` (and ``hint``) if it failed, died or took too long.
    """
    with subprocess.Popen(
        [sys.executable, "-m", "benchmarks.latency.worker", function],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **(environment or {})},
        start_new_session=with_children,  # its own process group, which can be ended at once
    ) as worker:
        try:
            out, said = worker.communicate(job, timeout=limit_s)
        except subprocess.TimeoutExpired:
            return {"error": f"took longer than {limit_s:.0f} s"}
        finally:  # also after Ctrl-C
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
        last = said.strip().splitlines()[-1:] or ["it printed no error"]
        answer = {"error": f"ended with {worker.returncode}: {last[0][:500]}"}
    return answer


def need(function: str, job: str) -> Answer:
    """Run a function like :func:`ask`, and raise if it fails.

    Raises:
        ExporterError: it failed or died.
    """
    answer = ask(function, job)
    if "error" in answer:
        raise ExporterError(answer["error"], hint=answer.get("hint"))
    return answer


def serve(function: str) -> None:
    """Answer the only job of this process; an error goes out as ``error`` and ``hint``."""
    module, name = function.split(":")
    do: Callable[[str], Answer] = getattr(import_module(module), name)
    try:
        answer = do(sys.stdin.read())
    except ExporterError as error:
        answer = {"error": error.message, "hint": error.hint}
    print("\n" + json.dumps(answer))


if __name__ == "__main__":
    serve(sys.argv[1])
