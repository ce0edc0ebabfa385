"""A measurement in a process of its own: what an earlier one loaded or warmed up doesn't count."""

from __future__ import annotations

import shlex
import subprocess
import sys

import click


def run_apart(module: str, *arguments: str) -> str:
    """Run a module of ``benchmarks`` in a fresh process and return the last line it printed.

    Args:
        module: its name under ``benchmarks``.
        arguments: of its command line.

    Raises:
        click.ClickException: it failed; shows the end of what it said.
    """
    command = [sys.executable, "-m", f"benchmarks.{module}", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        said = done.stderr[-3000:].strip() or f"exit code {done.returncode}"
        raise click.ClickException(f"{shlex.join(command)} failed:\n{said}")
    return done.stdout.splitlines()[-1] if done.stdout else ""
