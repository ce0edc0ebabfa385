"""``exporter sensitivity``: which layers INT8 or FP8 costs most in."""

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
    json_option,
    preprocess_option,
    unsafe_option,
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
    help="Where Q/DQ go, and of which numbers: INT8, or FP8 with fp8.",
)
@click.option(
    "--images", type=click.IntRange(1), default=512, show_default=True, help="Held out, to run on."
)
@weights_option
@click.option("--data", help=data_help)
@preprocess_option
@calibrator_option
@calibration_images_option
@calibration_option
@click.option("-o", "--output", type=folder_type, help="A picture: .png, .svg or .pdf.")
@unsafe_option
@json_option
def sensitivity(
    model: str, scheme: str, images: int, output: Path | None, as_json: bool, **options: Any
) -> None:
    """Rank MODEL's layers by what INT8 or FP8 costs in each; resnet18 where it is left out.

    Every convolution and dense layer is quantized alone, the rest left in float, and the logits
    are compared with the float graph's, on training images that are neither calibrated on nor
    in the test set. SQNR is the logits' energy by their error's, in dB; flips are labels that
    change; MMACs are the multiply-adds an image takes, the price of leaving the layer in float.

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
