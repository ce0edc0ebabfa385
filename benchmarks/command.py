"""How a benchmark's command line ends."""

from __future__ import annotations

import sys
from collections.abc import Callable

import click

from calibration.errors import Refusal


def run(main: Callable[[], object]) -> None:
    """Run a command; an error raised on purpose is one line and its exit code, no traceback."""
    try:
        main()
    except Refusal as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(error.exit_code)
