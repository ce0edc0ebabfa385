"""``exporter evaluate``: compare artifacts with the network they were made from."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from exporter.cli.options import data_help, folder_type, json_option, trust_options
from exporter.config import Trust
from exporter.errors import WrongUse

if TYPE_CHECKING:
    from benchmarks.accuracy.measure import Accuracy
    from exporter.artifact.folder import Artifact


@click.command()
@click.argument("artefacts", metavar="ARTIFACT...", type=folder_type, nargs=-1, required=True)
@click.option("--data", required=True, help=data_help)
@click.option("--limit", type=click.IntRange(min=1), help="Use only the first N images.")
@click.option("--original", help="The Keras model, if it has moved since the export.")
@trust_options
@click.option(
    "--ladder", is_flag=True, help="Measure every step from Keras to the engine, for one artifact."
)
@click.option("--layers", is_flag=True, help="With --ladder: show which layers add noise.")
@click.option(
    "--rung",
    help="With --layers: compare this rung with the one before. The default is the noisiest.",
)
@click.option(
    "-o", "--output", type=folder_type, help="With --ladder: a new folder for JSON and pictures."
)
@json_option
def evaluate(
    artefacts: tuple[Path, ...],
    data: str,
    limit: int | None,
    original: str | None,
    trust: Trust,
    ladder: bool,
    layers: bool,
    rung: str | None,
    output: Path | None,
    as_json: bool,
) -> None:
    """Compare each ARTIFACT with Keras on test images.

    evaluate reports top-1, top-5, agreement with Keras, every image with a flipped label, and the
    largest and mean logit error. Without --limit, it also saves the result in the passport.

    With --ladder, it measures one artifact step by step: Keras, the converted graph, batch norms
    folded, Q/DQ and FP16 simulated, the engine. It names the step that lost most. SQNR is the
    energy of the logits divided by the energy of their error, in dB.

    \b
    Example:
      exporter evaluate resnet18-ort --data fashion-mnist --ladder --layers -o drift
    """
    from benchmarks import result_file
    from exporter.artifact import folder as artifact
    from exporter.cli import console

    _refuse_conflicts(artefacts, ladder, layers, rung, output)
    if ladder:
        climb = artifact.read(artefacts[0]), data, limit, original, trust
        _ladder(*climb, layers=layers, rung=rung, output=output, as_json=as_json)
        return

    def as_object(rows: list[Accuracy]) -> None:
        results = [row.as_json() for row in rows]
        console.print_json({"data": data, **result_file.made_here(), "results": results})

    shown = as_object if as_json else console.accuracy_table
    artifacts = [artifact.read(path) for path in artefacts]
    measure(artifacts, data, shown, limit=limit, original=original, trust=trust)


def _refuse_conflicts(
    artefacts: tuple[Path, ...],
    ladder: bool,
    layers: bool,
    rung: str | None,
    output: Path | None,
) -> None:
    """Raise an error if an option has no effect or the output can't be written."""
    from exporter.artifact.folder import check_free

    for name, given, needs, has in (
        ("--layers", layers, "--ladder", ladder),
        ("--rung", rung is not None, "--layers", layers),
        ("--output", output is not None, "--ladder", ladder),
    ):
        if given and not has:
            raise WrongUse(f"{name} needs {needs}", hint=f"add {needs}")
    if ladder and len(artefacts) > 1:
        raise WrongUse(f"--ladder takes one artifact, not {len(artefacts)}")
    if output is not None:
        check_free(output, force=False)


def _ladder(
    one: Artifact,
    data: str,
    limit: int | None,
    original: str | None,
    trust: Trust,
    *,
    layers: bool,
    rung: str | None,
    output: Path | None,
    as_json: bool,
) -> None:
    """Measure a ladder, show it, and write it to the output folder."""
    from benchmarks.drift import ladder as drift
    from benchmarks.drift import layers as drift_layers
    from benchmarks.drift import pictures as drift_pictures
    from exporter.cli import console
    from exporter.cli import drift as console_drift

    with console.progress_bars(quiet=False) as progress:
        ladder = drift.climb(
            one, data, limit=limit, original=original, trust=trust, progress=progress
        )
        walk = drift_layers.walk(ladder, rung, progress=progress) if layers else None
    if as_json:
        console.print_json(drift_pictures.report(ladder, walk))
    else:
        console_drift.show_ladder(ladder)
        if walk is not None:
            console_drift.show_walk(walk)
    if output is not None:
        drift_pictures.write(ladder, walk, output)


def measure(
    artifacts: list[Artifact],
    data: str,
    show: Callable[[list[Accuracy]], None] | None,
    limit: int | None = None,
    **options: Any,
) -> list[Artifact]:
    """Measure and show, and only then record, so that a full disk doesn't lose the result."""
    from benchmarks import result_file
    from benchmarks.accuracy import measure as accuracy
    from exporter.cli import console

    with console.progress_bars(quiet=False) as progress:
        rows = accuracy.evaluate(artifacts, data, limit=limit, progress=progress, **options)
    if show is not None:
        show(rows)
    if limit is not None:
        return artifacts
    common = {"data": data, **result_file.made_here(), "keras": rows[0].as_json()}
    return [
        one.record("accuracy", {**common, **row.as_json()})
        for one, row in zip(artifacts, rows[1:], strict=True)
    ]
