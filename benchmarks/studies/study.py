"""What all studies share: options, a result file, kept cells, and processes of their own.

A study is a command that gets a :class:`Run` and its own options::

    @study.command("export_time", "export_time.json")
    @click.option("--rounds", type=study.COUNT, default=5)
    def main(run: Run, rounds: int) -> None: ...
"""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from benchmarks import result_file
from exporter.cli import console
from exporter.network.runner import usable_cores

RESULTS = Path(__file__).parents[1] / "results"
COUNT = click.IntRange(min=1)

Cell = dict[str, Any]
Option = Callable[[Callable[..., None]], Callable[..., None]]


class Run:
    """One run of a study, and the result file that it writes.

    Attributes:
        report: what the file holds.
        output: the file; None to write none.
        saved: whether this run wrote it.
    """

    def __init__(self, name: str, output: Path | None) -> None:
        self.report: dict[str, Any] = {}
        self.output = output
        self.saved = False
        self._name = name
        self._log = Console(stderr=True, highlight=False, soft_wrap=True)

    def say(self, line: str) -> None:
        """Print a line of progress on standard error."""
        self._log.print(line, markup=False)

    def start(self, **fields: Any) -> None:
        """Begin the report with the machine, versions, date and command, then these fields."""
        self.report = {**result_file.header(f"studies.{self._name}"), **fields}

    def save(self, **fields: Any) -> None:
        """Add fields to the report and write it.

        Call it after each cell, so that an interrupted run keeps what it measured.
        """
        self.report |= fields
        if self.output is not None:
            result_file.write(self.report, self.output)
            self.saved = True


def command(name: str, output: str | None = None) -> Callable[[Callable[..., None]], click.Command]:
    """Make a study's command, with ``--output`` beside its own options.

    Args:
        name: the study's module.
        output: the result file's usual name; None if the study chooses it, or writes none.
    """
    option = click.option(
        *("-o", "--output"),
        type=click.Path(path_type=Path, dir_okay=False),
        default=output and RESULTS / output,
        show_default=f"benchmarks/results/{output}" if output else False,
        help="JSON file.",
    )

    def decorate(main: Callable[..., None]) -> click.Command:
        @functools.wraps(main)
        def start(output: Path | None, **options: Any) -> None:
            run = Run(name, output)
            try:
                main(run, **options)
            finally:
                if run.saved:
                    console.say(f"all figures: {run.output}", markup=False)

        return click.command(context_settings={"show_default": True})(option(start))

    return decorate


def listed(item: Any) -> Callable[[click.Context, click.Parameter, str], tuple[Any, ...]]:
    """Make the callback of an option that takes several values with commas between them.

    Args:
        item: click's type of one value.
    """

    def split(context: click.Context, option: click.Parameter, text: str) -> tuple[Any, ...]:
        parts = (item.convert(part.strip(), option, context) for part in text.split(","))
        return tuple(dict.fromkeys(parts))

    return split


artifacts = click.argument("artefacts", type=click.Path(path_type=Path), nargs=-1, required=True)
threads = click.option("--threads", type=COUNT, default=usable_cores, help="Default: all cores.")
data = click.option("--data", default="fashion-mnist", help="As exporter takes it.")


batches = click.option(
    "--batch", callback=listed(COUNT), default="1,32", help="Images a call, separated by commas."
)


def folder(*flags: str, default: Path, what: str) -> Option:
    """Make an option for a folder."""
    kind = click.Path(path_type=Path, file_okay=False)
    return click.option(*flags, type=kind, default=default, help=what)


def kept(
    file: Path,
    measure: Callable[[], Cell],
    made_for: Mapping[str, Any] | None = None,
    *,
    resume: bool = True,
) -> Cell:
    """Return a finished cell from its file, or measure it and write the file.

    Args:
        file: of the cell.
        measure: returns it; with the key ``failed`` it is measured again the next time.
        made_for: what the cell depends on; if that changed, the cell is measured again.
        resume: use the file.
    """
    if resume and file.is_file():
        found: Cell = json.loads(file.read_text(encoding="utf-8"))
        if found.get("made_for") == made_for and "failed" not in found:
            return found
    cell = measure() | ({"made_for": made_for} if made_for else {})
    result_file.write(cell, file)
    return cell


def job(function: Callable[..., Cell], *arguments: object) -> tuple[str, str]:
    """Return what :mod:`benchmarks.latency.worker` needs to call a function in a new process.

    Args:
        function: at the top level of a module.
        arguments: what JSON can hold; a path arrives as text.
    """
    spec = sys.modules[function.__module__].__spec__  # its name is right for __main__, too
    assert spec is not None
    called = [spec.name, function.__name__, arguments]
    return f"{__name__}:answer", json.dumps(called, default=str)


def answer(text: str) -> Cell:
    """Call the function of a :func:`job`, in this process."""
    module, name, arguments = json.loads(text)
    found: Cell = getattr(import_module(module), name)(*arguments)
    return found


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]], *, words: int = 1) -> str:
    """Write a table whose first so many columns are words, and the others numbers."""
    rule = ["---" if column < words else "--:" for column in range(len(header))]
    return "\n".join(f"| {' | '.join(row)} |" for row in (header, rule, *rows))
