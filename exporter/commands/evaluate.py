"""``exporter evaluate``: artefacts beside the network they were made from."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from exporter.options import data_help, folder_type, json_option

if TYPE_CHECKING:
    from benchmarks.accuracy import Accuracy
    from exporter.artifact import Artifact


@click.command()
@click.argument("artefacts", type=folder_type, nargs=-1, required=True)
@click.option("--data", required=True, help=data_help)
@click.option("--limit", type=click.IntRange(min=1), help="Only the first so many images.")
@click.option("--original", help="Where the Keras model is, if not where the passport says.")
@click.option("--unsafe", is_flag=True, help="Allow Lambda layers in the original.")
@json_option
def evaluate(
    artefacts: tuple[Path, ...],
    data: str,
    limit: int | None,
    original: str | None,
    unsafe: bool,
    as_json: bool,
) -> None:
    """Compare ARTEFACTS with Keras on test images.

    Reports top-1, top-5, agreement with Keras, every image whose label flips, and the
    largest and mean logit error. On all images the result also goes into the passport.
    """
    from exporter import artifact, console

    def as_object(rows: list[Accuracy]) -> None:
        console.print_json({"data": data, "results": [row.as_json() for row in rows]})

    shown = as_object if as_json else console.accuracy_table
    artifacts = [artifact.read(path) for path in artefacts]
    measure(artifacts, data, shown, limit=limit, original=original, unsafe=unsafe)


def measure(
    artifacts: list[Artifact],
    data: str,
    show: Callable[[list[Accuracy]], None] | None,
    limit: int | None = None,
    **options: Any,
) -> list[Artifact]:
    """Measure, show, and only then record: a full disk must not cost the result."""
    from benchmarks import accuracy
    from exporter import console

    with console.progress_bars(quiet=False) as progress:
        rows = accuracy.evaluate(artifacts, data, limit=limit, progress=progress, **options)
    if show is not None:
        show(rows)
    if limit is not None:
        return artifacts
    return [
        one.record("accuracy", {"data": data, "keras": rows[0].as_json(), **row.as_json()})
        for one, row in zip(artifacts, rows[1:], strict=True)
    ]
