"""``exporter train``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from exporter.cli.options import data_help, folder_type, json_option


@click.command()
@click.argument("model")
@click.option("--data", default="fashion-mnist", show_default=True, help=data_help)
@click.option("--epochs", type=int, required=True, help="Passes over the training images.")
@click.option("--image-size", type=int, default=96, show_default=True, help="In pixels.")
@click.option("-o", "--output", type=folder_type, help="Default: MODEL.keras.")
@click.option("--start-from", type=folder_type, help="Take the weights from this .keras file.")
@click.option("--batch-size", type=int, default=128, show_default=True, help="Images a step.")
@click.option(
    "--learning-rate",
    type=float,
    default=0.1,
    show_default=True,
    help="Its peak, after the warm-up.",
)
@click.option("--momentum", type=float, default=0.9, show_default=True, help="Of Nesterov's kind.")
@click.option(
    "--weight-decay", type=float, default=5e-4, show_default=True, help="Decoupled, on kernels."
)
@click.option(
    "--warmup-epochs", type=float, default=0.5, show_default=True, help="Of linear warm-up."
)
@click.option("--label-smoothing", type=float, default=0.0, show_default=True, help="0 to 1.")
@click.option("--flip/--no-flip", default=True, show_default=True, help="Mirror at random.")
@click.option(
    "--shift",
    type=float,
    default=0.04,
    show_default=True,
    help="Move at random by up to this share of the side.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Of all that is random.")
@click.option("--limit", type=int, help="Use only so many training images.")
@json_option
def train(model: str, output: Path | None, as_json: bool, **options: Any) -> None:
    """Train a zoo MODEL.

    SGD with Nesterov momentum, a cosine schedule after a warm-up, flips and shifts.
    A run that was killed goes on from its last finished epoch when the same command is
    given again. Beside the .keras file go its history as JSON and as a picture.

    \b
    Examples:
      exporter train resnet18 --epochs 5
      exporter train resnet18 --image-size 48 --epochs 3 -o small.keras
      exporter train resnet18 --epochs 1 --start-from small.keras --learning-rate 0.02
    """
    from exporter.cli import console
    from exporter.training.train import TrainConfig
    from exporter.training.train import train as run

    config = TrainConfig(model=model, output=output or Path(f"{model}.keras"), **options)
    with console.progress_bars(quiet=False) as progress:
        result = run(config, progress)
    if as_json:
        console.print_json(result)
    else:
        test = result["test"]
        console.say(
            f"{config.output}: top-1 {test['top1']:.4f} "
            f"({test['correct']} of {test['images']} test images)"
        )
