"""Draw the drift ladder: the rungs, the layers of two of them, and the images that flip."""

from __future__ import annotations

import io
import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks import result_file
from calibration.sensitivity import sqnr_db
from exporter.artifact import folder as artifact

if TYPE_CHECKING:
    from benchmarks.drift.ladder import Ladder
    from benchmarks.drift.layers import Walk

REPORT, RUNGS, LAYERS, FLIPS = "ladder.json", "ladder.png", "layers.png", "flips.png"
_BLUE, _ORANGE = "#0072b2", "#e69f00"  # distinct in every form of color blindness (Okabe, Ito)
_INCHES_A_LAYER, _MARGIN_INCHES = 0.19, 1.3
_COLUMNS, _FEWEST_COLUMNS, _MOST_IMAGES = 6, 4, 48  # four columns are as wide as the title
_LONGEST_NAME = 40
_DPI = 120


def report(ladder: Ladder, walk: Walk | None) -> dict[str, Any]:
    """Return all measurements as one JSON object; ``layers`` is null without a walk."""
    made_here = result_file.made_here()
    return {**ladder.as_json(), **made_here, "layers": walk and walk.as_json()}


def write(ladder: Ladder, walk: Walk | None, folder: Path) -> None:
    """Write the JSON and all pictures that have content; if that fails, leave no folder.

    Raises:
        WrongUse: the folder exists.
    """
    with artifact.writing(folder, force=False) as aside:
        text = json.dumps(report(ladder, walk), indent=1, allow_nan=False)
        (aside / REPORT).write_text(text + "\n", encoding="utf-8")
        draw_rungs(ladder, aside / RUNGS)
        if walk is not None:
            draw_layers(walk, aside / LAYERS)
        if len(ladder.flipped):
            draw_flips(ladder, aside / FLIPS)


def draw_rungs(ladder: Ladder, path: Path) -> None:
    """Draw each rung's change of top-1 against Keras with its interval, and its label flips."""
    from matplotlib.figure import Figure

    rungs = [rung for rung in ladder.rungs if rung.against_keras]
    names = [rung.name for rung in rungs]
    tested = [rung.against_keras.accuracy.paired for rung in rungs if rung.against_keras]
    pairs = [one for one in tested if one is not None]
    changes = [one.change_points for one in pairs]
    below = [one.change_points - one.interval_points[0] for one in pairs]
    above = [one.interval_points[1] - one.change_points for one in pairs]
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    top1, flips = figure.subplots(1, 2)
    top1.errorbar(names, changes, yerr=[below, above], fmt="o", color=_BLUE, capsize=4)
    top1.axhline(0, color="black", linewidth=0.8)
    top1.set(ylabel="top-1 against Keras (points, 95% interval)", xlabel="rung")
    counts = [
        [
            change.accuracy.against_keras.label_flips
            for change in (rung.against_keras, rung.against_before)
            if change is not None and change.accuracy.against_keras is not None
        ]
        for rung in rungs
    ]
    for offset, column, color, label in (
        (-0.2, 0, _BLUE, "against Keras"),
        (0.2, 1, _ORANGE, "against the rung before"),
    ):
        places = [place + offset for place in range(len(names))]
        flips.bar(places, [both[column] for both in counts], 0.4, color=color, label=label)
    flips.set_xticks(range(len(names)), names)
    flips.set(ylabel=f"label flips of {ladder.images.count:,}", xlabel="rung")
    most = max(count for both in counts for count in both)
    flips.set_ylim(0, max(1.25 * most, 1))  # room for the legend; whole images on the axis
    flips.yaxis.get_major_locator().set_params(integer=True)
    flips.legend(frameon=False, fontsize=8)
    title = f"{_named(ladder)}: from Keras to the engine, {ladder.images.count:,} images"
    _finish(figure, (top1, flips), "y", title, path)


def draw_layers(walk: Walk, path: Path) -> None:
    """Draw each layer's total SQNR and own SQNR, in graph order from the top."""
    from matplotlib.figure import Figure

    names = [f"{_short(layer.keras_layer or layer.tensor)}  {layer.op}" for layer in walk.layers]
    height = _MARGIN_INCHES + _INCHES_A_LAYER * len(names)
    figure = Figure(figsize=(9, max(height, 3)), layout="constrained")
    axes = figure.subplots()
    places = list(range(len(names)))
    total = [_decibels(layer.total.ratio) for layer in walk.layers]
    own = [_decibels(layer.own.ratio) for layer in walk.layers]
    axes.plot(total, places, "o-", color=_BLUE, markersize=4, label="with inherited noise")
    axes.plot(own, places, "D", color=_ORANGE, markersize=4, label="the layer's own noise")
    axes.set_yticks(places, names, fontsize=7)
    axes.set(xlabel="SQNR (dB): further left is worse", ylabel="layer, in graph order")
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.legend(frameon=False, fontsize=8)
    title = f"Where noise enters, {walk.before} to {walk.after}, {walk.images} images"
    _finish(figure, (axes,), "both", title, path)


def draw_flips(ladder: Ladder, path: Path) -> None:
    """Draw the first images on which the rungs disagree, with label and predicted classes."""
    from matplotlib.figure import Figure

    flipped = ladder.flipped[:_MOST_IMAGES]
    pixels = ladder.images.data.pixels(flipped, ladder.images.size)
    columns = min(_COLUMNS, max(_FEWEST_COLUMNS, len(flipped)))
    rows = math.ceil(len(flipped) / columns)
    figure = Figure(figsize=(2 * columns, 2.5 * rows + 0.4), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in grid:
        axes.axis("off")
    for axes, index, image in zip(grid, flipped, pixels, strict=False):
        axes.imshow(image.squeeze(), cmap="gray", vmin=0, vmax=255)
        axes.set_title(_caption(ladder, int(index)), fontsize=7)
    figure.suptitle(
        f"{len(flipped)} of {len(ladder.flipped)} images with a class change, "
        f"of {ladder.images.count:,} in all: label, and class at each change"
    )
    _save(figure, path)


def _caption(ladder: Ladder, index: int) -> str:
    """Return the image's number, its label, and the class wherever it changes between rungs."""
    names, run = ladder.classes, [rung.name for rung in ladder.rungs if rung.accuracy]
    given = ladder.predictions[:, index]
    lines = [f"#{index}: {names[ladder.images.labels[index]]}"]
    for rung, before, now in zip(run, [None, *given], given, strict=False):
        if now != before:
            lines.append(f"{rung}: {names[now]}")
    return "\n".join(lines)


def _decibels(noise: float) -> float:
    """Return the SQNR; NaN, which draws no point, if there is no noise or it is not finite."""
    return sqnr_db(noise) if noise and math.isfinite(noise) else math.nan


def _short(name: str) -> str:
    return name if len(name) <= _LONGEST_NAME else f"...{name[3 - _LONGEST_NAME :]}"


def _named(ladder: Ladder) -> str:
    one = ladder.made.artifact
    source = Path(ladder.made.source.name).name
    return f"{source}, {one.passport['precision']} for {one.target}"


def _finish(figure: Any, all_axes: tuple[Any, ...], grid: str, title: str, path: Path) -> None:
    for axes in all_axes:
        axes.grid(axis=grid, alpha=0.3)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(title)
    _save(figure, path)


def _save(figure: Any, path: Path) -> None:
    """Write a PNG of 256 colors, a third of the size, because the results are committed."""
    from PIL import Image

    drawn = io.BytesIO()
    figure.savefig(drawn, dpi=_DPI)
    with Image.open(drawn) as picture:
        picture.convert("RGB").quantize(256).save(path, optimize=True)
