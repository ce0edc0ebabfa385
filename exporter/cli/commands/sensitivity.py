"""``exporter sensitivity``: find the layers where INT8 or FP8 costs most."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import click

from exporter.cli.options import (
    calibration_images_option,
    calibration_option,
    calibrator_option,
    data_help,
    folder_type,
    input_size_option,
    json_option,
    preprocess_option,
    trust_options,
    weights_option,
)
from exporter.config import SchemeName
from exporter.targets import TARGETS


@click.command()
@click.argument("model", default="resnet18")
@click.option(
    "--scheme",
    type=click.Choice(get_args(SchemeName)),
    default="cpu",
    show_default=True,
    help="Where to place Q/DQ. fp8 quantizes to FP8, the others to INT8.",
)
@click.option(
    "--images",
    type=click.IntRange(1),
    default=512,
    show_default=True,
    help="Number of held-out training images to run on.",
)
@weights_option
@click.option("--data", help=data_help)
@preprocess_option
@input_size_option
@calibrator_option
@calibration_images_option
@calibration_option
@click.option(
    "-o", "--output", type=folder_type, help="Also draw a picture here: .png, .svg or .pdf."
)
@trust_options
@json_option
def sensitivity(
    model: str, scheme: str, images: int, output: Path | None, as_json: bool, **options: Any
) -> None:
    """Rank MODEL's layers by the accuracy that INT8 or FP8 costs in each.

    MODEL is a zoo name, a .keras, .h5 or .hdf5 file, or a SavedModel folder. The default is
    resnet18.

    sensitivity quantizes one convolution or dense layer at a time, leaves the rest in float, and
    compares the logits with the float graph's. It runs on training images that are neither used
    for calibration nor in the test set. SQNR is the energy of the logits divided by the energy of
    their error, in dB. Flips are labels that change. MMACs are the layer's multiply-adds per
    image, in millions: the price of leaving the layer in float.

    \b
    Examples:
      exporter sensitivity resnet18
      exporter sensitivity mine.keras --preprocess torch --data folder:photos -o layers.png
    """
    from benchmarks import result_file
    from exporter import pipeline
    from exporter.cli import console
    from exporter.config import ExportConfig, Int8
    from exporter.passes import schemes
    from exporter.precision.sensitivity import check_picture, draw

    if output is not None:
        check_picture(output)
    precision = schemes.lookup(scheme).precision
    target = next(
        row.name
        for row in TARGETS.values()
        if precision in row.precisions and scheme in (row.scheme, precision)
    )
    config = ExportConfig(
        model,
        target,
        Path(),
        precision=precision,
        int8=Int8(recovery=(), held_out_images=images),
        **options,
    )
    with console.progress_bars(quiet=False) as progress:
        result = pipeline.measure_sensitivity(config, progress)
    if output is not None:
        draw(result, output)
    if as_json:
        console.print_json({"model": model, **result_file.made_here(), **result.as_json()})
    else:
        console.sensitivity_table(result)
