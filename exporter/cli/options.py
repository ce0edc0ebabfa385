"""Command-line options that several commands share."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar, get_args

import click

from exporter.config import BuildOptions, Calibrator, InputSize, Trust

Command = TypeVar("Command", bound=Callable[..., Any])


def count_or_auto(_: click.Context, __: click.Parameter, text: str) -> int | str:
    """Parse a number or the word ``auto``."""
    try:
        return text if text == "auto" else int(text)
    except ValueError:
        raise click.BadParameter(f"{text!r} is neither a number nor auto") from None


json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
data_help = (
    "fashion-mnist, folder:PATH (with train/ and test/, each with one folder per class) or "
    "npz:PATH."
)
folder_type = click.Path(path_type=Path)
weights_option = click.option(
    "--weights",
    metavar="FILE|random",
    help="Weights of a zoo model: a .keras file written by exporter train, or random. The default "
    "is the shipped weights.",
)
preprocess_option = click.option(
    "--preprocess",
    type=click.Choice(["unit", "raw", "signed", "caffe", "torch"]),
    help="How to turn images into inputs if the model doesn't store this. unit: 0 to 1; raw: 0 to "
    "255; signed: -1 to 1; caffe and torch: as in keras.applications (ResNet50 uses caffe).",
)
input_size_option = click.option(
    "--input-size",
    metavar="HxW|HxW:HxW:HxW",
    callback=lambda _, __, text: None if text is None else InputSize.parse(text),
    help="For a network that takes any size: one size, such as 224x224, or the smallest, the usual "
    "and the largest. For sequences of any length, L or L:L:L.",
)
calibrator_option = click.option(
    "--calibrator",
    type=click.Choice(get_args(Calibrator)),
    default="mse",
    show_default=True,
    help="INT8, FP8: how to choose the ranges. entropy works for INT8 only.",
)
calibration_images_option = click.option(
    "--calibration-images",
    metavar="N|auto",
    callback=count_or_auto,
    default="512",
    show_default=True,
    help="INT8, FP8, FP16: number of training images to measure on. auto doubles it until no range "
    "moves by more than 5% in each of two doublings, up to 8192.",
)
calibration_option = click.option(
    "--calibration",
    type=folder_type,
    help="INT8, FP8: use this calibration.json instead of measuring. It must be for the same graph "
    "and preprocessing.",
)


def trust_options(command: Command) -> Command:
    """Add ``--import`` and ``--unsafe``, and pass them to a command as one ``trust``."""

    @functools.wraps(command)
    def trusting(*args: Any, imports: tuple[str, ...], unsafe: bool, **options: Any) -> Any:
        return command(*args, trust=Trust(unsafe, imports), **options)

    importing = click.option(
        "--import",
        "imports",
        multiple=True,
        metavar="MODULE|FILE.py",
        help="Import this before loading the network, for classes that are not part of Keras, such "
        "as keras_hub. Repeatable. This runs its code.",
    )
    unsafe = click.option(
        "--unsafe", is_flag=True, help="Allow Lambda layers. This runs code from the model file."
    )
    return importing(unsafe(trusting))  # type: ignore[return-value]


def recovery_names(
    context: click.Context, parameter: click.Parameter, given: tuple[str, ...]
) -> tuple[str, ...] | None:
    """Parse ``--recovery``: repeated, comma-separated, or both. Return None for ``auto``."""
    names = tuple(dict.fromkeys(name.strip() for text in given for name in text.split(",")))
    alone = {"auto", "none"} & {*names}
    if alone and len(names) > 1:
        raise click.BadParameter(
            f"{alone.pop()} can't be combined with other names", context, parameter
        )
    return {(): None, ("auto",): None, ("none",): ()}.get(names, names)


# In the order of --help. Each option has the name of its field in BuildOptions.
_BUILD = (
    click.option(
        "--workspace",
        "workspace_mib",
        type=int,
        metavar="MIB",
        help="trt: maximum scratch memory.",
    ),
    click.option(
        "--opt-level",
        type=click.IntRange(0, 5),
        help="trt: how long the builder searches. TensorRT's default is 3.",
    ),
    click.option(
        "--hardware-compatible",
        is_flag=True,
        help="trt: build one engine for all GPUs from Ampere on, except Jetsons.",
    ),
    click.option(
        "--version-compatible",
        is_flag=True,
        help="trt: build an engine that later TensorRT releases of the same major version can "
        "also load.",
    ),
    click.option(
        "--dla-core",
        type=int,
        help="trt: build for this DLA core. Layers that it can't run fall back to the GPU.",
    ),
    click.option(
        "--compute-capability",
        "compute_capabilities",
        multiple=True,
        metavar="X.Y",
        help="trt-rtx: compile for GPUs of this compute capability, such as 8.6. Repeatable. The "
        "default is 8.0 and later; with FP8 it is 8.9 and 12.0.",
    ),
    click.option(
        "--tf32",
        is_flag=True,
        help="ort-cuda: compute FP32 products in TF32, which is faster and less exact.",
    ),
    click.option(
        "--allow-fallback",
        is_flag=True,
        help="ort-cuda, ort-trt, ort-trt-rtx: accept nodes that run on the CPU. Without this "
        "option, they are an error.",
    ),
)


def build_options(command: Command) -> Command:
    """Add the engine builders' options to a command."""
    for option in reversed(_BUILD):
        command = option(command)
    return command


def take_build_options(options: dict[str, Any]) -> BuildOptions:
    """Remove the builders' options from a command's options, and return them."""
    return BuildOptions(**{field.name: options.pop(field.name) for field in fields(BuildOptions)})
