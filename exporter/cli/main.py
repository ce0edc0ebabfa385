"""The command line: its commands, and how it shows errors. Heavy libraries load inside commands."""

from __future__ import annotations

import sys
from typing import Any

import click

from calibration.errors import Refusal
from exporter.cli.commands import bench, check, evaluate, export, report, sensitivity, show, train

EPILOG = "Exit codes: 0 done, 1 failed, 2 wrong use, 3 a check failed, 4 something is missing here."
INTERRUPTED = 130  # what shells give for Ctrl-C


class Commands(click.Group):
    """A command group that turns each of the project's errors into a message and an exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command, and show its errors as messages, never as tracebacks."""
        try:
            return super().invoke(ctx)
        except Refusal as error:
            _fail(error.message, error.hint)
            ctx.exit(error.exit_code)
        except BrokenPipeError:  # `exporter models | head`: click handles this quietly
            raise
        except OSError as error:
            _fail(f"{error.strerror or error}: {error.filename or 'while writing'}", None)
            ctx.exit(1)
        except KeyboardInterrupt:
            _fail("interrupted; unfinished output was removed", None)
            ctx.exit(INTERRUPTED)


def _fail(message: str, hint: str | None) -> None:
    click.secho("error: ", fg="red", err=True, nl=False)
    click.echo(message, err=True)
    if hint:
        click.echo(hint, err=True)


@click.group(
    cls=Commands,
    epilog=EPILOG,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(package_name="exporter")
def main() -> None:
    """Convert a trained Keras network to an engine, and measure what it lost and gained.

    \b
    Start here:
      exporter export resnet18 --to ort -o resnet18-ort
      exporter evaluate resnet18-ort --data fashion-mnist
    """


for command in (
    export.export,
    export.compile,
    evaluate.evaluate,
    check.check,
    bench.bench,
    report.report,
    train.train,
    sensitivity.sensitivity,
    show.inspect,
    show.models,
    show.doctor,
):
    main.add_command(command)


def export_main() -> None:
    """Run ``exporter export`` as the separate program ``export``."""
    main(args=["export", *sys.argv[1:]], prog_name="exporter")
