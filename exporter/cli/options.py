"""Command-line options that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

import click

from exporter.config import BuildOptions

Command = TypeVar("Command", bound=Callable[..., Any])


def count_or_auto(_: click.Context, __: click.Parameter, text: str) -> int | str:
    """Read a number, or the word auto."""
    try:
        return text if text == "auto" else int(text)
    except ValueError:
        raise click.BadParameter(f"{text!r} is neither a number nor auto") from None


json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
data_help = (
    "fashion-mnist, folder:PATH (train/ and test/ in it, one folder a class in each) or npz:PATH."
)
folder_type = click.Path(path_type=Path)
weights_option = click.option(
    "--weights",
    metavar="FILE|random",
    help="Of a zoo model: a .keras file, as exporter train writes; default: as shipped.",
)
preprocess_option = click.option(
    "--preprocess",
    type=click.Choice(["unit", "raw", "signed", "caffe", "torch"]),
    help="How images become inputs, for a model that does not say: unit 0 to 1, raw 0 to 255, "
    "signed -1 to 1; caffe and torch as in keras.applications (ResNet50: caffe).",
)
calibrator_option = click.option(
    "--calibrator",
    type=click.Choice(["entropy", "mse", "percentile", "minmax"]),
    default="mse",
    show_default=True,
    help="INT8, FP8: how ranges are chosen; entropy for INT8 alone.",
)
calibration_images_option = click.option(
    "--calibration-images",
    metavar="N|auto",
    callback=count_or_auto,
    default="512",
    show_default=True,
    help="INT8, FP8, FP16: training images to measure on; auto: until no range moves by more than "
    "5% in each of two doublings, 8192 at most.",
)
calibration_option = click.option(
    "--calibration",
    type=folder_type,
    help="INT8, FP8: a calibration.json of the same graph and preprocessing, instead of measuring.",
)
unsafe_option = click.option(
    "--unsafe", is_flag=True, help="Allow Lambda layers: runs code from the file."
)


def recovery_names(
    context: click.Context, parameter: click.Parameter, given: tuple[str, ...]
) -> tuple[str, ...] | None:
    """Read ``--recovery``, repeated, a list with commas, or both; None for ``auto``."""
    names = tuple(dict.fromkeys(name.strip() for text in given for name in text.split(",")))
    alone = {"auto", "none"} & {*names}
    if alone and len(names) > 1:
        raise click.BadParameter(f"{alone.pop()} stands alone", context, parameter)
    return {(): None, ("auto",): None, ("none",): ()}.get(names, names)


# In the order of --help; each is named after its field of BuildOptions.
_BUILD = (
    click.option(
        "--workspace",
        "workspace_mib",
        type=int,
        metavar="MIB",
        help="trt: scratch memory, at most.",
    ),
    click.option(
        "--opt-level",
        type=click.IntRange(0, 5),
        help="trt: how long the builder searches; its own default is 3.",
    ),
    click.option(
        "--hardware-compatible",
        is_flag=True,
        help="trt: one engine for all GPUs from Ampere on, Jetsons left out.",
    ),
    click.option(
        "--version-compatible",
        is_flag=True,
        help="trt: an engine for later TensorRT releases of the same major version too.",
    ),
    click.option(
        "--dla-core", type=int, help="trt: build for this DLA core; the rest falls back to the GPU."
    ),
    click.option(
        "--compute-capability",
        "compute_capabilities",
        multiple=True,
        metavar="X.Y",
        help="trt-rtx: compile for these GPUs, such as 8.6; default: 8.0 and later, with FP8 "
        "8.9 and 12.0. Repeatable.",
    ),
    click.option(
        "--tf32",
        is_flag=True,
        help="ort-cuda: compute FP32 products in TF32, which is faster and less exact.",
    ),
    click.option(
        "--allow-fallback",
        is_flag=True,
        help="ort-cuda, ort-trt, ort-trt-rtx: accept nodes that run on the CPU. Without it they "
        "are an error.",
    ),
)


def build_options(command: Command) -> Command:
    """Add the options of engine builders to a command."""
    for option in reversed(_BUILD):
        command = option(command)
    return command


def take_build_options(options: dict[str, Any]) -> BuildOptions:
    """Take the builders' options out of a command's; the others stay."""
    return BuildOptions(**{field.name: options.pop(field.name) for field in fields(BuildOptions)})
