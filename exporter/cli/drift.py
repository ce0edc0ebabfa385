"""Show a drift ladder in the terminal. Only the command line imports this module."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from calibration.sensitivity import sqnr_db
from exporter.cli.console import say, table

if TYPE_CHECKING:
    from benchmarks.drift.ladder import Change, Ladder, Rung
    from benchmarks.drift.layers import Layer, Walk

_FLIPS_SHOWN, _CLASSES_SHOWN, _LAYERS_SHOWN, _LONGEST_NAME = 20, 20, 20, 44


def show_ladder(ladder: Ladder) -> None:
    """Show the rungs, their changes by class, the rung that lost most, and the flipped labels."""
    made = ladder.made
    title = f"{made.artifact.path}: {ladder.images.count} images of {ladder.images.data.name}"
    run = [rung for rung in ladder.rungs if rung.accuracy]
    columns = ("change", "95% interval", "p", "flips", "max", "mean", "dB")
    rows = [[rung.name, _top1(rung), *_against(rung.against_before)] for rung in run]
    table(f"{title}; each rung compared with the one before", ("rung", "top-1", *columns), rows)
    rows = [[rung.name, _top5(rung), *_against(rung.against_keras)] for rung in run]
    table("Compared with Keras", ("rung", "top-5", *columns), rows)
    say("change: top-1, in points; p: McNemar's exact test; max, mean: logit error; dB: SQNR")
    for rung in ladder.rungs:
        if rung.not_run:
            say(f"{rung.name}: {rung.not_run}", markup=False)
    _show_classes(ladder)
    check = made.graphs.check
    say(f"{'' if made.graphs.same else 'warning: '}the folded graph is {check}", markup=False)
    say(ladder.verdict()["sentence"], markup=False)
    _show_flips(ladder)


def show_walk(walk: Walk) -> None:
    """Show the layers that add the most noise themselves, in graph order."""
    worst = sorted(walk.layers, key=lambda layer: -layer.own.ratio)[:_LAYERS_SHOWN]
    rows = [_layer_row(layer) for layer in walk.layers if layer in worst]
    title = f"SQNR in dB by layer, {walk.before} to {walk.after}, on {walk.images} images"
    if len(rows) < len(walk.layers):
        title += f": the {len(rows)} noisiest of {len(walk.layers)}, in graph order"
    table(title, ("tensor", "op", "total", "own", "inherited"), rows)
    say("own: this layer alone, with exact inputs; inherited: the worst of its inputs")
    say(walk.sentence(), markup=False)


def _top1(rung: Rung) -> str:
    return f"{rung.accuracy.top1:.4f}" if rung.accuracy else "-"


def _top5(rung: Rung) -> str:
    top5 = rung.accuracy and rung.accuracy.top5
    return "-" if top5 is None else f"{top5:.4f}"


def _against(change: Change | None) -> list[str]:
    if change is None:
        return ["-"] * 7
    agreement, tested = change.accuracy.against_keras, change.accuracy.paired
    assert agreement is not None
    assert tested is not None
    low, high = tested.interval_points
    return [
        f"{tested.change_points:+.2f}",
        f"{low:+.2f} to {high:+.2f}",
        f"{tested.p_value:.2g}",
        str(agreement.label_flips),
        f"{agreement.max_abs_error:.1e}",
        f"{agreement.mean_abs_error:.1e}",
        _decibels(change.noise),
    ]


def _show_classes(ladder: Ladder) -> None:
    """Show the classes that change at any rung, with images won and lost."""
    steps = ladder.steps
    changed = [
        label
        for label in range(len(ladder.classes))
        if any(change.won[label] or change.lost[label] for _, change in steps)
    ]
    if not changed:
        return
    rows = [
        [
            ladder.classes[label],
            str(ladder.rungs[0].correct[label]),
            *(
                f"{rung.correct[label]} (+{change.won[label]} -{change.lost[label]})"
                for rung, change in steps
            ),
        ]
        for label in changed[:_CLASSES_SHOWN]
    ]
    title = "Correct images by class (won and lost compared with the rung before)"
    table(title, ("class", "keras", *(rung.name for rung, _ in steps)), rows)
    if len(changed) > _CLASSES_SHOWN:
        say(f"{len(changed) - _CLASSES_SHOWN} more classes change; --json or -o lists them all")


def _show_flips(ladder: Ladder) -> None:
    """List the first images on which the rungs disagree."""
    run = [rung.name for rung in ladder.rungs if rung.accuracy]
    names = ladder.classes
    flipped = ladder.flipped
    for index in flipped[:_FLIPS_SHOWN]:
        label, given = int(ladder.images.labels[index]), ladder.predictions[:, index]
        classes = ", ".join(f"{rung} {names[c]}" for rung, c in zip(run, given, strict=True))
        say(f"image {index} ({names[label]}): {classes}", markup=False)
    if len(flipped) > _FLIPS_SHOWN:
        say(f"{len(flipped) - _FLIPS_SHOWN} more images flip; --json or -o lists them all")


def _layer_row(layer: Layer) -> list[str]:
    name = layer.keras_layer or layer.tensor
    short = name if len(name) <= _LONGEST_NAME else f"...{name[3 - _LONGEST_NAME :]}"
    noises = (layer.total.ratio, layer.own.ratio, layer.inherited)
    return [short, layer.op, *map(_decibels, noises)]


def _decibels(noise: float) -> str:
    """Format a noise-to-signal ratio as SQNR: "exact" if there is no noise, "-" if not finite."""
    if noise == 0:
        return "exact"
    return f"{sqnr_db(noise):.1f}" if math.isfinite(noise) else "-"
