"""Run a benchmark's command line, and turn errors into exit codes."""

from __future__ import annotations

import sys
from collections.abc import Callable

import click

from calibration.errors import Refusal


def run(main: Callable[[], object]) -> None:
    """Run a command; our own errors print one line and set the exit code, with no traceback."""
    try:
        main()
    except Refusal as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(error.exit_code)
