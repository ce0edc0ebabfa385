"""``exporter train``: train a zoo model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from exporter.cli.options import data_help, folder_type, json_option


@click.command()
@click.argument("model")
@click.option("--data", default="fashion-mnist", show_default=True, help=data_help)
@click.option("--epochs", type=int, required=True, help="Passes over the training images.")
@click.option(
    "--image-size", type=int, default=96, show_default=True, help="Side of the images in pixels."
)
@click.option("-o", "--output", type=folder_type, help="Output file; default: MODEL.keras.")
@click.option("--start-from", type=folder_type, help="Take the weights from this .keras file.")
@click.option("--batch-size", type=int, default=128, show_default=True, help="Images per step.")
@click.option(
    "--learning-rate",
    type=float,
    default=0.1,
    show_default=True,
    help="Peak learning rate, after the warm-up.",
)
@click.option("--momentum", type=float, default=0.9, show_default=True, help="Nesterov momentum.")
@click.option(
    "--weight-decay",
    type=float,
    default=5e-4,
    show_default=True,
    help="Decoupled weight decay on kernels.",
)
@click.option(
    "--warmup-epochs",
    type=float,
    default=0.5,
    show_default=True,
    help="Epochs of linear warm-up.",
)
@click.option("--label-smoothing", type=float, default=0.0, show_default=True, help="From 0 to 1.")
@click.option(
    "--flip/--no-flip", default=True, show_default=True, help="Flip images horizontally at random."
)
@click.option(
    "--shift",
    type=float,
    default=0.04,
    show_default=True,
    help="Shift images at random by up to this fraction of their side.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Seed for all randomness.")
@click.option("--limit", type=int, help="Use only this many training images.")
@json_option
def train(model: str, output: Path | None, as_json: bool, **options: Any) -> None:
    """Train a zoo MODEL.

    Training uses SGD with Nesterov momentum, a warm-up, a cosine schedule, flips and shifts. If a
    run was killed, run the same command again: it continues after the last finished epoch. The
    history is written next to the .keras file, as JSON and as a picture.

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
