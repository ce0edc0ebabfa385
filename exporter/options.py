"""Command-line options that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from typing import Any, TypeVar

import click

from exporter.config import BuildOptions

Command = TypeVar("Command", bound=Callable[..., Any])

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
        "--hardware-compatible", is_flag=True, help="trt: one engine for all GPUs from Ampere on."
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
        help="trt-rtx: compile for these GPUs, such as 8.6; default: 8.0 and later. Repeatable.",
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
