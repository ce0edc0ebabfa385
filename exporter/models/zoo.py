"""The zoo as one literal table. Importing this module doesn't import Keras."""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from exporter.errors import unknown_name

if TYPE_CHECKING:
    import keras

IMAGE_SIZE = 96
CHANNELS = 1
CLASSES = 10
PREPROCESSING = "unit"
_CHECKPOINTS = Path(__file__).parent / "checkpoints"


@dataclass(frozen=True)
class ZooModel:
    """One row of the zoo.

    ``widths`` are the output channels of the four stages, ``depths`` their blocks;
    ``groups`` and ``bottleneck`` only mean something to ResNeXt blocks.
    """

    name: str
    block: Literal["residual", "bottleneck", "resnext"]
    depths: tuple[int, int, int, int]
    widths: tuple[int, int, int, int]
    groups: int = 1
    bottleneck: float = 0.25

    @property
    def checkpoint(self) -> Path | None:
        """The weights shipped with the package; None if there are none."""
        path = _CHECKPOINTS / f"{self.name}.keras"
        return path if path.is_file() else None


_NARROW = (64, 128, 256, 512)
_HALF = (128, 256, 512, 1024)
_WIDE = (256, 512, 1024, 2048)

ZOO: dict[str, ZooModel] = {
    row.name: row
    for row in (
        ZooModel("resnet18", "residual", (2, 2, 2, 2), _NARROW),
        ZooModel("resnet34", "residual", (3, 4, 6, 3), _NARROW),
        ZooModel("resnet50", "bottleneck", (3, 4, 6, 3), _WIDE),
        ZooModel("resnet101", "bottleneck", (3, 4, 23, 3), _WIDE),
        ZooModel("resnet152", "bottleneck", (3, 8, 36, 3), _WIDE),
        ZooModel("resnext26_16x4d", "resnext", (2, 2, 2, 2), _HALF, groups=16, bottleneck=0.5),
        ZooModel("resnext26_32x4d", "resnext", (2, 2, 2, 2), _WIDE, groups=32, bottleneck=0.5),
        ZooModel("resnext50_32x4d", "resnext", (3, 4, 6, 3), _WIDE, groups=32, bottleneck=0.5),
        ZooModel("resnext101_32x8d", "resnext", (3, 4, 23, 3), _WIDE, groups=32, bottleneck=1.0),
    )
}


def lookup(name: str) -> ZooModel:
    """Find a model by name.

    Raises:
        WrongUse: there is no such model. The hint lists the nearest names.
    """
    if name not in ZOO:
        raise unknown_name("model", name, ZOO)
    return ZOO[name]


def describe(row: ZooModel) -> dict[str, Any]:
    """Return a row as JSON values. ``top1`` is for the shipped weights; None if there are none."""
    history = _CHECKPOINTS / f"{row.name}.history.json"
    test = json.loads(history.read_text())["test"] if row.checkpoint else {}
    return {
        "name": row.name,
        "block": row.block,
        "depths": list(row.depths),
        "widths": list(row.widths),
        "groups": row.groups,
        "shipped_weights": row.checkpoint is not None,
        "top1": test.get("top1"),
    }


def build(
    name: str,
    *,
    image_size: int = IMAGE_SIZE,
    channels: int = CHANNELS,
    classes: int = CLASSES,
) -> keras.Model:
    """Build a zoo model with fresh random weights.

    Returns:
        A Keras model from (batch, image_size, image_size, channels) float32 to
        logits (batch, classes).

    Raises:
        WrongUse: there is no such model.
    """
    row = lookup(name)
    from exporter.models import resnet, resnext

    blocks: dict[str, resnet.Block] = {
        "residual": resnet.residual_block,
        "bottleneck": resnet.bottleneck_block,
        "resnext": functools.partial(
            resnext.resnext_block, groups=row.groups, bottleneck=row.bottleneck
        ),
    }
    return resnet.four_stages(
        blocks[row.block],
        row.depths,
        row.widths,
        image_size=image_size,
        channels=channels,
        classes=classes,
        name=row.name,
    )
