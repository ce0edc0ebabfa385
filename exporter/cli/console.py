"""What the terminal shows: progress bars and tables. Only the command line imports this."""

from __future__ import annotations

import contextlib
import io
import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import Progress as RichProgress
from rich.table import Table
from rich.text import Text

from exporter.cli import interrupt, names
from exporter.progress import Progress

if TYPE_CHECKING:
    from benchmarks.accuracy.measure import Accuracy
    from exporter.diagnosis import Diagnosis
    from exporter.precision.sensitivity import Sensitivity

_FLIPS_SHOWN = 20
_LINE_EVERY_S = 30.0
_WHOLE_NAME = 12


@contextmanager
def progress_bars(quiet: bool) -> Iterator[Progress]:
    """Show one bar per stage on standard error, or plain lines if that is not a terminal.

    Each report is also a place where Ctrl-C stops the work, if a library swallowed it.
    """
    console = Console(stderr=True, quiet=quiet)
    with interrupt.remembered() as stop, _shown(console) as show:

        def report(stage: str, done: int, total: int, note: str = "") -> None:
            if done < total:  # else the work is done, and its output in place
                stop()
            show(stage, done, total, note)

        yield report


@contextmanager
def _shown(console: Console) -> Iterator[Progress]:
    if not console.is_terminal:
        yield _Lines(console)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("[dim]{task.fields[note]}"),
    )
    with RichProgress(*columns, console=console) as bars:
        tasks: dict[str, TaskID] = {}

        def show(stage: str, done: int, total: int, note: str = "") -> None:
            if stage not in tasks:
                tasks[stage] = bars.add_task(stage, total=total, note=note)
            bars.update(tasks[stage], completed=done, total=total, note=note)

        yield show


class _Lines:
    """Log progress: one line at the start and end of each stage, and one every 30 s."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._shown: dict[str, float] = {}

    def __call__(self, stage: str, done: int, total: int, note: str = "") -> None:
        import time

        now = time.monotonic()
        due = now - self._shown.get(stage, float("-inf")) >= _LINE_EVERY_S
        if due or done >= total or stage == "export":
            self._shown[stage] = now
            self._console.print(f"{stage}: {done}/{total} {note}".rstrip(), highlight=False)


def captured(show: Callable[[], None], width: int) -> str:
    """Return what a function prints, as text of at most this width."""
    with contextlib.redirect_stdout(io.StringIO()) as said, _columns(width):
        show()
    return said.getvalue().rstrip("\n")


@contextmanager
def _columns(width: int) -> Iterator[None]:
    """Let rich believe in a terminal of this width."""
    before = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = str(width)
    try:
        yield
    finally:
        if before is None:
            del os.environ["COLUMNS"]
        else:
            os.environ["COLUMNS"] = before


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table with its first column left-aligned and the others right-aligned.

    If the table is too wide, the first column gets the space that the others leave, and paths in
    it lose their leading folders. rich would otherwise cut the first column first.
    """
    console = Console()
    shown = _table(title, columns, rows, None)
    endless = console.options.update(max_width=10_000)
    if console.measure(shown, options=endless).maximum > console.width:
        others = _table(title, columns, [["", *row[1:]] for row in rows], None)
        need = console.measure(others, options=endless)
        # Space left for the first column when the others are at their widest and narrowest.
        wide, narrow = (
            max(_WHOLE_NAME, console.width - other + len(columns[0]))
            for other in (need.maximum, need.minimum)
        )
        short = names.shorten([row[0] for row in rows], wide, narrow)
        rows = [[name, *row[1:]] for name, row in zip(short, rows, strict=True)]
        words = max(names.longest_word(name) for name in [columns[0], *short])
        longest = max(map(len, [columns[0], *short]))
        shown = _table(title, columns, rows, min(max(words, min(longest, wide)), narrow))
    console.print(shown)


def _table(
    title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], width: int | None
) -> Table:
    shown = Table(title=title, title_justify="left")
    shown.add_column(columns[0], overflow="fold", width=width)
    for column in columns[1:]:
        shown.add_column(column, justify="right", overflow="fold")
    for row in rows:
        shown.add_row(*row)
    return shown


def facts(title: str, pairs: Sequence[tuple[str, str]]) -> None:
    """Print one name and value per line. Brackets aren't markup, as values may come from files."""
    shown = Table(title=Text(title), title_justify="left", show_header=False, box=None)
    shown.add_column(style="bold")
    shown.add_column(overflow="fold")
    for name, value in pairs:
        shown.add_row(Text(name), Text(value))
    Console().print(shown)


def accuracy_table(rows: Sequence[Accuracy]) -> None:
    """Show the Keras original, then the engines. Only ``--json`` lists every label flip."""
    columns = ("engine", "top-1", "change", "95% interval", "p", "top-5", "flips", "max error")
    shown = []
    for row in rows:
        against, tested = row.against_keras, row.paired
        change = ["-"] * 3
        if tested is not None:
            low, high = tested.interval_points
            change = [f"{tested.change_points:+.2f}", f"{low:+.2f} to {high:+.2f}"]
            change.append(f"{tested.p_value:.2g}")
        drift = ["-"] * 2
        if against is not None:
            drift = [str(against.label_flips), f"{against.max_abs_error:.1e}"]
        top5 = "-" if row.top5 is None else f"{row.top5:.4f}"
        shown.append([row.engine, f"{row.top1:.4f}", *change, top5, *drift])
    table(f"{rows[0].images} images, against the Keras original", columns, shown)
    say("change: top-1 against Keras, in points; p: McNemar's exact test of no change")
    for row in rows:
        for flip in row.flips[:_FLIPS_SHOWN]:
            say(
                f"{row.engine}: image {flip['image']} (label {flip['label']}) "
                f"went from {flip['keras']} to {flip['artefact']}"
            )
        if len(row.flips) > _FLIPS_SHOWN:
            say(f"{row.engine}: {len(row.flips) - _FLIPS_SHOWN} more flips; --json lists them all")


def sensitivity_table(result: Sensitivity) -> None:
    """Show what quantizing each layer alone costs."""
    columns = ("layer", "SQNR dB", "flips", "MMACs", "share")
    rows = [
        (
            row["keras_layer"] or row["node"],
            "-" if row["sqnr_db"] is None else f"{row['sqnr_db']:.1f}",
            str(row["label_flips"]),
            f"{row['macs'] / 1e6:.2f}",
            f"{row['macs_share']:.1%}",
        )
        for row in result.rows().values()
    ]
    title = f"One layer in INT8 at a time: scheme {result.scheme}, {result.images} held-out images"
    table(title, columns, rows)
    for warning in result.warnings:
        say(f"warning: {warning}")


def zoo_table(rows: Sequence[dict[str, Any]]) -> None:
    """Show the zoo's models."""
    columns = ("model", "block", "depths", "groups", "shipped weights")
    table(
        "Zoo (default: 96x96x1, 10 classes)",
        columns,
        [
            (
                row["name"],
                row["block"],
                "-".join(map(str, row["depths"])),
                str(row["groups"]),
                f"top-1 {row['top1']:.4f}" if row["shipped_weights"] else "-",
            )
            for row in rows
        ],
    )


def show_diagnosis(diagnosis: Diagnosis) -> None:
    """Show what ``doctor`` found."""
    cpu, gpu = diagnosis.cpu, diagnosis.gpu
    sets = cpu.instruction_sets
    found = ", ".join(n for n, here in sets.items() if here) if sets is not None else "unknown"
    facts(
        "This machine",
        [
            ("system", f"{diagnosis.system}, {diagnosis.architecture}"),
            ("python", diagnosis.python),
            ("cpu", f"{cpu.model}, {cpu.usable_cores} usable cores"),
            ("instruction sets", found),
            *(("", line) for line in cpu.consequences),
            ("gpu", ", ".join(device.described for device in gpu.devices) or "none found"),
        ],
    )
    facts("Versions", [(n, v or "not installed") for n, v in diagnosis.versions.items()])
    rows = [
        (status.target, does, "yes" if able.usable else f"no: {able.why_not}", able.install or "-")
        for status in diagnosis.targets
        for does, able in (("export", status.exports), ("compile", status.compiles))
        if able is not None
    ]
    columns = ("target", "step", "works here", "how to install it")
    table("Targets", columns, [tuple(map(escape, row)) for row in rows])  # extras have brackets


def say(text: str, *, markup: bool = True) -> None:
    """Print one line to standard output. Without ``markup``, brackets print as they are."""
    Console().print(text, highlight=False, soft_wrap=True, markup=markup)


def print_json(value: Any) -> None:
    """Print one JSON object to standard output, and nothing else."""
    print(json.dumps(value, indent=1))
