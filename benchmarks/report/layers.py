"""The report's drift ladders and layer sensitivities."""

from __future__ import annotations

from benchmarks.report import charts, words
from benchmarks.report.blocks import (
    Block,
    Figure,
    Fold,
    Heading,
    Key,
    Picture,
    Section,
    Table,
    Words,
)
from benchmarks.report.charts import Bar
from benchmarks.report.data import Change, Drift, Findings, Sensitivity, Walk
from exporter import targets

_MOST_LAYERS, _MOST_FLIPS = 24, 200
_ALONE = Key("s1", "diamond", "noise of this layer alone, with exact inputs")
_ALL = Key("s0", "circle", "including the noise of all earlier layers")


def drift(findings: Findings) -> Section | None:
    """Show every drift ladder, the newest first."""
    blocks: list[Block] = []
    for one in findings.drifts:
        if len(findings.drifts) > 1:
            blocks.append(Heading(f"{one.artefact}: {one.target} {one.precision.upper()}"))
        blocks += _ladder(one)
    return Section("drift", "Drift ladder", tuple(blocks)) if blocks else None


def _ladder(one: Drift) -> list[Block]:
    blocks: list[Block] = [Words(one.sentence, "key")]
    blocks.append(Words(f"{one.images:,} test images of {one.data}, the same on every rung."))
    for rung in one.rungs:
        if rung.not_run:
            blocks.append(Words(f"{rung.name}: {rung.not_run}", "caution"))
        elif rung.name == "simulated":
            gpu = "" if targets.runs_on(one.target) == "cpu" else "; not run on a GPU"
            blocks.append(Words(f"simulated: {rung.what}, run on the CPU{gpu}."))
    if any(rung.against_keras for rung in one.rungs):
        blocks += [_rungs(one), _steps(one)]
    blocks += _flips(one)
    if one.walk is not None:
        blocks += _walk(one.walk)
    return [*blocks, words.source(one.origin)]


def _rungs(one: Drift) -> Figure:
    run = [rung for rung in one.rungs if rung.top1 is not None]
    bars = [
        Bar(
            rung.name,
            change.paired.change_points,
            change.paired.interval_points,
            words=f"{change.agreement.label_flips:,} flips",
        )
        for rung in run
        if (change := rung.against_keras)
    ]
    title = "Change of top-1 against Keras, by rung"
    axis = "points of top-1, with the 95% interval"
    columns = ("rung", "what", "right", "top-1, %", *_CHANGE)
    rows = tuple(
        (
            rung.name,
            rung.what,
            f"{rung.correct or 0:,}",
            words.percent(rung.top1),
            *_change(rung.against_keras),
        )
        for rung in run
    )
    return Figure(
        title,
        (charts.both(title, lambda width: charts.changes(bars, axis, width)),),
        Table("Each rung against Keras", columns, rows, words=(0, 1)),
        note=f"Flips: images (of {one.images:,}) whose label differs from Keras.",
    )


def _steps(one: Drift) -> Table:
    run = [rung for rung in one.rungs if rung.against_before]
    rows = tuple((rung.name, *_change(rung.against_before)) for rung in run)
    return Table("Each rung against the one before", ("rung", *_CHANGE), rows)


_CHANGE = ("change, points", "95% interval", "p", "flips", "SQNR, dB")


def _change(change: Change | None) -> tuple[str, ...]:
    if change is None:
        return (words.NOTHING,) * len(_CHANGE)
    tested, flips = change.paired, change.agreement.label_flips
    exact = 0.0 if change.agreement.max_abs_error == 0 else None
    return (
        words.signed(tested.change_points),
        words.interval(*tested.interval_points),
        f"{tested.p_value:.2g}",
        f"{flips:,}",
        words.sqnr(change.sqnr_db, exact),
    )


def _flips(one: Drift) -> list[Block]:
    if not one.flips:
        return [Words("Every image gets the same label on all rungs.")]
    run = [rung.name for rung in one.rungs if rung.top1 is not None]
    rows = tuple(
        (str(f.image), f.label, *(f.predictions.get(rung, words.NOTHING) for rung in run))
        for f in one.flips[:_MOST_FLIPS]
    )
    title = f"Images whose label changes between rungs: {len(one.flips):,} of {one.images:,}"
    caption = title
    if len(one.flips) > _MOST_FLIPS:
        caption += f"; the first {_MOST_FLIPS}, all in {one.origin.file}"
    everywhere = tuple(range(1, len(run) + 2))
    table = Table(caption, ("image", "is", *run), rows, words=everywhere, folded=True)
    if one.picture is None:
        return [Fold(title, (table,))]
    return [Picture(title, one.picture, table)]


def _walk(walk: Walk) -> list[Block]:
    title = f"Where noise enters, {walk.before} to {walk.after}: SQNR by layer"
    worst = sorted(walk.layers, key=lambda layer: -(layer.own_noise or 0))[:_MOST_LAYERS]
    shown = [layer for layer in walk.layers if layer in worst]
    bars = [Bar(layer.name, layer.own_sqnr_db, other=layer.total_sqnr_db) for layer in shown]
    rows = tuple(
        (
            layer.name,
            layer.op,
            words.sqnr(layer.own_sqnr_db, layer.own_noise),
            words.sqnr(layer.total_sqnr_db, layer.total_noise),
        )
        for layer in walk.layers
    )
    of = (
        f"the {len(shown)} noisiest of {len(walk.layers)} layers, "
        if len(worst) < len(rows)
        else ""
    )
    axis = "SQNR, dB: further left is worse"
    columns = ("layer", "op", "alone, dB", "with all before, dB")
    return [
        Figure(
            title,
            (charts.both(title, lambda width: charts.pairs(bars, axis, width)),),
            Table(f"{title}, in graph order", columns, rows, words=(0, 1), folded=True),
            (_ALONE, _ALL),
            note=f"Drawn: {of}in graph order from the top; {walk.images:,} images.",
        )
    ]


def sensitivity(findings: Findings) -> Section | None:
    """Show what INT8 costs in each layer on its own."""
    blocks: list[Block] = []
    for one in findings.sensitivities:
        if len(findings.sensitivities) > 1:
            blocks.append(Heading(f"{one.of}, scheme {one.scheme}"))
        blocks += _costs(one)
    return Section("layers", "Layer sensitivities", tuple(blocks)) if blocks else None


def _costs(one: Sensitivity) -> list[Block]:
    title = "SQNR of the logits with only one layer quantized"
    shown = one.layers[:_MOST_LAYERS]
    longest = max((c.sqnr_db for c in one.layers if c.sqnr_db is not None), default=None)
    bars = [
        # No change: draw it as long as the best. No finite logits: no bar.
        Bar(
            c.name,
            longest if c.noise == 0 else c.sqnr_db,
            words=f"{words.sqnr(c.sqnr_db, c.noise)} dB",
        )
        for c in shown
    ]
    rows = tuple(
        (
            c.name,
            words.sqnr(c.sqnr_db, c.noise),
            f"{c.label_flips:,}",
            words.decimals(c.macs / 1e6, 2),
            f"{100 * c.macs_share:.1f}",
        )
        for c in one.layers
    )
    columns = ("layer", "SQNR, dB", "flips", "MMACs per image", "share of MACs, %")
    of = (
        f"The {len(shown)} costliest of {len(one.layers)} layers. "
        if len(shown) < len(rows)
        else ""
    )
    lead = (
        f"One layer of {one.of} is quantized at a time, the rest is float: scheme {one.scheme}, "
        f"{one.images:,} held-out training images."
    )
    if one.scheme == "tensorrt":
        lead += " A simulation on the CPU; not run on a GPU."
    figure = Figure(
        title,
        (charts.both(title, lambda width: charts.lengths(bars, "dB: shorter is worse", width)),),
        Table("Layers, the costliest first", columns, rows, folded=True),
        note=f"{of}Flips: labels that change.",
    )
    warned = [Words(warning, "caution") for warning in one.warnings]
    return [Words(lead), *warned, figure, words.source(one.origin)]
