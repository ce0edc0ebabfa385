"""Networks that take inputs of any size: fix the size, or bound it."""

from __future__ import annotations

from dataclasses import replace

from exporter.config import InputSize
from exporter.errors import WrongUse
from exporter.network.sources import Port, Source

_STEPS = InputSize((1,), (16,), None)
"""Lengths to try if a sequence's length is open and the user does not bound it."""


def sized(source: Source, size: InputSize | None) -> Source:
    """Apply the user's choice of a size to the open dimensions of every input.

    Args:
        source: the network.
        size: one size fixes the dimensions. A range leaves them open, and bounds them. Without
            one, images must have a fixed size already, and other inputs keep their open lengths.

    Raises:
        WrongUse: the size doesn't fit the open dimensions, or images of any size have none.
    """
    opened = {port.name: port.open_dimensions for port in source.inputs if port.open_dimensions}
    if size is None:
        for port in source.inputs:
            if port.open_dimensions and len(port.shape) == 4:
                raise WrongUse(
                    f"{source.name} takes images of any size: input {port.name!r} is {port.shape}",
                    hint="choose one with --input-size 224x224, or a range (smallest, usual and "
                    "largest) with --input-size 64x64:224x224:512x512",
                )
        lengths = max(map(len, opened.values()), default=0)
        return source if not opened else replace(source, size=_STEPS.repeated(lengths))
    if not opened:
        shapes = ", ".join(str(port.shape) for port in source.inputs)
        raise WrongUse(
            f"the inputs of {source.name} have a fixed size already: {shapes}",
            hint="leave out --input-size",
        )
    for name, dimensions in opened.items():
        if len(dimensions) != len(size.usual):
            raise WrongUse(
                f"input {name!r} of {source.name} has {len(dimensions)} open dimension(s), "
                f"but --input-size {size} has {len(size.usual)}",
            )
    if size.is_fixed:
        fixed = tuple(_filled(port, size.usual) for port in source.inputs)
        return replace(source, inputs=fixed)
    return replace(source, size=size)


def usual_shape(
    source: Source, port: Port, sizes: tuple[int, ...] | None = None
) -> tuple[int, ...]:
    """Return an input's shape without the batch, with ``sizes`` for its open dimensions.

    The default is the usual size.
    """
    if not port.open_dimensions:
        return tuple(int(size or 1) for size in port.shape[1:])
    assert source.size is not None
    return tuple(int(size or 1) for size in _filled(port, sizes or source.size.usual).shape[1:])


def other_sizes(source: Source) -> list[tuple[int, ...]]:
    """Return sizes besides the usual one that the graph must be right for."""
    if source.size is None:
        return []
    largest = source.size.maximum or tuple(2 * size + 5 for size in source.size.usual)
    found = dict.fromkeys((source.size.minimum, largest))
    found.pop(source.size.usual, None)
    return list(found)


def _filled(port: Port, sizes: tuple[int, ...]) -> Port:
    """Fill in the open dimensions. Without the user's choice, inputs may have different counts."""
    shape, axes = list(port.shape), port.open_dimensions
    for index, size in zip(axes, sizes[: len(axes)], strict=True):
        shape[index] = size
    return replace(port, shape=tuple(shape))
