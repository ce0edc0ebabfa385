"""The drift ladders of the shipped networks and of one outside the zoo, as result files.

``python -m benchmarks.studies.ladders`` exports each network to onnxruntime's INT8, climbs its
ladder on all test images, and walks the layers of the noisiest rung. It writes
``results/ladder_NETWORK.json`` (rungs, layers, and the images whose class changes) with pictures
beside it. MobileNetV2 is trained first if it is missing (``benchmarks.studies.untuned``), and is
loaded like any user's ``.keras`` file.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from benchmarks import command, result_file
from benchmarks.drift import ladder as drift
from benchmarks.drift import layers as drift_layers
from benchmarks.drift import pictures as drift_pictures
from benchmarks.drift.ladder import Ladder
from benchmarks.drift.layers import Walk
from benchmarks.studies import study
from benchmarks.studies.int8_comparison import UNTUNED, model_of
from exporter import pipeline
from exporter.artifact import folder as artifact
from exporter.artifact.folder import Artifact
from exporter.cli import console
from exporter.cli.drift import show_ladder, show_walk
from exporter.config import ExportConfig
from exporter.models import zoo
from exporter.progress import Progress

WORK = Path("build/ladders")
DATA = "fashion-mnist"
USERS = "mobilenetv2"


def networks() -> tuple[str, ...]:
    """Return all shipped networks, and the one outside the zoo."""
    return (*(row.name for row in zoo.ZOO.values() if row.checkpoint), USERS)


def export(model: str, output: Path, progress: Progress) -> Artifact:
    """Export a network to onnxruntime's INT8 with the defaults, unless that was done before.

    The ladder tells whether an export would still give the same artifact.
    """
    if output.exists():
        return artifact.read(output)
    config = ExportConfig(model, target="ort", precision="int8", data=DATA, output=output)
    return pipeline.export(config, progress)


def write(ladder: Ladder, walk: Walk, name: str, folder: Path) -> Path:
    """Write a ladder's figures and pictures into a folder."""
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


@click.command(context_settings={"show_default": True})
@click.argument("names", type=click.Choice(networks()), nargs=-1)
@click.option("--limit", type=study.COUNT, help="Only the first so many images.")
@study.folder("--work", default=WORK, what="For the artifacts.")
@study.folder("--untuned", default=UNTUNED, what=f"For {USERS}.keras.")
@study.folder("-o", "--output", default=study.RESULTS, what="For the results.")
def main(names: Sequence[str], limit: int | None, work: Path, untuned: Path, output: Path) -> None:
    """Climb the ladders of NAMES; default: all."""
    work.mkdir(parents=True, exist_ok=True)
    for name in names or networks():
        model = model_of(name, untuned, click.echo)
        with console.progress_bars(quiet=False) as progress:
            made = export(model, work / f"{name}-ort-int8", progress)
            ladder = drift.climb(made, DATA, limit=limit, progress=progress)
            walk = drift_layers.walk(ladder, progress=progress)
        show_ladder(ladder)
        show_walk(walk)
        console.say(f"all figures: {write(ladder, walk, name, output)}", markup=False)


if __name__ == "__main__":
    command.run(main)
