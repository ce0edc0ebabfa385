"""The drift ladders of the shipped networks and of one that is not of the zoo, as result files.

``python -m benchmarks.studies.ladders`` exports each to onnxruntime's INT8, climbs its ladder on
all test
images, walks the layers of the noisiest rung, and writes ``results/ladder_NETWORK.json`` with its
pictures beside it: rungs, layers, and the images whose class changes. MobileNetV2 is trained first
where it isn't there yet (``benchmarks.studies.untuned``); it is loaded as any user's ``.keras``
file is.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click
from rich.console import Console

from benchmarks import command, result_file
from benchmarks.drift import ladder as drift
from benchmarks.drift import layers as drift_layers
from benchmarks.drift import pictures as drift_pictures
from benchmarks.drift.ladder import Ladder
from benchmarks.drift.layers import Walk
from benchmarks.studies.int8_comparison import model_of
from exporter import pipeline
from exporter.artifact import folder as artifact
from exporter.artifact.folder import Artifact
from exporter.cli import console
from exporter.cli.drift import show_ladder, show_walk
from exporter.config import ExportConfig
from exporter.models import zoo
from exporter.progress import Progress

RESULTS = Path(__file__).parents[1] / "results"
DATA = "fashion-mnist"
USERS = "mobilenetv2"


def networks() -> tuple[str, ...]:
    """Return all shipped networks, and the one that is not of the zoo."""
    return (*(row.name for row in zoo.ZOO.values() if row.checkpoint), USERS)


def export(model: str, output: Path, progress: Progress) -> Artifact:
    """Export a network to onnxruntime's INT8, as the defaults have it, unless that was done.

    The ladder says whether what is there is what would be exported now.
    """
    if output.exists():
        return artifact.read(output)
    config = ExportConfig(model, target="ort", precision="int8", data=DATA, output=output)
    return pipeline.export(config, progress)


def write(ladder: Ladder, walk: Walk, name: str, folder: Path) -> Path:
    """Write a ladder's figures and pictures into a folder that is there."""
    passport = ladder.made.artifact.passport
    int8 = {key: passport["int8"][key] for key in ("scheme", "reduce_range", "calibrator")}
    output = folder / f"ladder_{name}.json"
    header = {**result_file.header("studies.ladders"), "int8": int8}
    result_file.write({**header, **drift_pictures.report(ladder, walk)}, output)
    drift_pictures.draw_rungs(ladder, output.with_suffix(".png"))
    drift_pictures.draw_layers(walk, folder / f"ladder_{name}_layers.png")
    if len(ladder.flipped):
        drift_pictures.draw_flips(ladder, folder / f"ladder_{name}_flips.png")
    return output


@click.command()
@click.argument("names", type=click.Choice(networks()), nargs=-1)
@click.option("--limit", type=click.IntRange(min=1), help="Only the first so many images.")
@click.option(
    "--work",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("build/ladders"),
    show_default=True,
    help="Where the artefacts are, or go.",
)
@click.option(
    "--untuned",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("build/untuned"),
    show_default=True,
    help=f"Where {USERS}.keras is, or is trained.",
)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    default=RESULTS,
    help="Folder; default: benchmarks/results.",
)
def main(names: Sequence[str], limit: int | None, work: Path, untuned: Path, output: Path) -> None:
    """Climb the ladders of NAMES; default: all."""
    say = Console(stderr=True, highlight=False)
    for folder in (work, output):
        folder.mkdir(parents=True, exist_ok=True)
    for name in names or networks():
        model = model_of(name, untuned, say)
        with console.progress_bars(quiet=False) as progress:
            made = export(model, work / f"{name}-ort-int8", progress)
            ladder = drift.climb(made, DATA, limit=limit, progress=progress)
            walk = drift_layers.walk(ladder, progress=progress)
        show_ladder(ladder)
        show_walk(walk)
        say.print(f"all figures: {write(ladder, walk, name, output)}", soft_wrap=True)


if __name__ == "__main__":
    command.run(main)
