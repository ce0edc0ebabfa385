"""Turn results, as the commands write them, into the content of a report."""

from __future__ import annotations

import shlex
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.accuracy.paired import Paired
from benchmarks.latency.bench import deployed_bytes
from benchmarks.latency.result import METRICS, Ratio
from benchmarks.report import data
from benchmarks.report.data import KERAS, Origin, Timing
from benchmarks.report.values import (
    Damaged,
    Json,
    count,
    made,
    mapping,
    maybe,
    number,
    numbers,
    objects,
    positive,
    some_objects,
    text,
    texts,
)
from benchmarks.report.words import plain
from exporter import targets
from exporter.artifact.folder import Artifact
from exporter.network.agreement import Agreement

PICTURE = "flips.png"
_PNG = b"\x89PNG\r\n\x1a\n"
_MOST_PICTURE_BYTES = 12_000_000


def latency(value: Json, name: str) -> data.Bench:
    """Read what ``exporter bench -o FILE`` (or ``--json``) wrote.

    Args:
        value: the JSON object.
        name: of the file.

    Raises:
        Damaged: something is missing or of the wrong type; so do all functions here.
    """
    rows = tuple(_timing(row) for row in objects(value, "rows"))
    settings = mapping(value, "settings")
    return data.Bench(
        _origin(value, name, bench_command(rows, settings)),
        *_compared(value),
        rows,
        texts(value, "unstable"),
        texts(value, "verdicts"),
        settings,
    )


def recorded_latency(value: Json, one: Artifact, name: str) -> data.Bench:
    """Read what ``exporter bench`` recorded in a passport: the artifact and its originals."""
    engine = str(one.path)
    rows = _recorded_rows(mapping(value, "batches"), engine, deployed_bytes(one))
    beside = maybe(mapping, value, "originals") or {}
    for original in beside:
        rows = [*_recorded_rows(mapping(beside, original), original), *rows]
    settings = mapping(value, "settings")
    return data.Bench(
        _origin(value, name, bench_command(rows, settings)),
        *_compared(value),
        tuple(rows),
        texts(value, "unstable"),
        (),
        settings,
    )


def _compared(value: Json) -> tuple[str, str, str]:
    scenario = text(value, "scenario")
    known = METRICS.get(scenario)  # type: ignore[call-overload]
    return scenario, str(known or maybe(text, value, "metric") or scenario), text(value, "baseline")


def _timing(row: Json) -> Timing:
    blocks = objects(row, "blocks")
    if not blocks:
        return Timing(
            text(row, "engine"),
            _batch(row),
            file_bytes=maybe(count, row, "file_bytes"),
            error=maybe(text, row, "error") or "failed",
        )
    energies = [maybe(numbers, block, "energy_mj") or {} for block in blocks]
    meters = dict.fromkeys(name for energy in energies for name in energy)
    return Timing(
        text(row, "engine"),
        _batch(row),
        _quantiles(row),
        maybe(positive, row, "mean_ms"),
        maybe(positive, row, "throughput"),
        _ratio(row),
        maybe(number, row, "peak_rss_mib"),
        maybe(count, row, "file_bytes"),
        tuple(positive(block, "p50_ms") for block in blocks),
        {m: statistics.median(e[m] for e in energies if m in e) for m in meters},
    )


def _batch(row: Json) -> int:
    return int(positive({"batch": count(row, "batch")}, "batch"))


def _recorded_rows(batches: Json, engine: str, size: int | None = None) -> list[Timing]:
    rows = []
    for batch in batches:
        row = mapping(batches, batch)
        try:
            images = _batch({"batch": int(batch)})
        except ValueError:
            raise Damaged(f"{batch!r} is no batch size") from None
        rows.append(
            Timing(
                engine,
                images,
                _quantiles(row),
                maybe(positive, row, "mean_ms"),
                maybe(positive, row, "throughput"),
                _ratio(row),
                maybe(number, row, "peak_rss_mib"),
                size,
            )
        )
    return rows


def _quantiles(row: Json) -> dict[str, float]:
    found = numbers(row, "quantiles_ms")
    for percent in ("1", "25", "50", "75", "90", "99"):
        positive(found, percent)
    return found


def _ratio(row: Json) -> Ratio | None:
    return made(
        lambda found: Ratio(
            text(found, "over"), *(number(found, key) for key in ("ratio", "low", "high"))
        ),
        row,
        "speedup",
    )


_BENCH_OPTIONS = {  # by setting
    "threads": "--threads",
    "rounds": "--rounds",
    "seconds": "--seconds",
    "warm_up_s": "--warm-up",
    "scenario": "--scenario",
    "data": "--data",
    "seed": "--seed",
}


def bench_command(rows: Sequence[Timing], settings: Json) -> str:
    """Rebuild the command from what the result records."""
    engines = list(dict.fromkeys(row.engine for row in rows))
    against = maybe(texts, settings, "against")
    if against is None:  # an older result: only an artifact has files
        files = {row.engine for row in rows if row.file_bytes is not None}
        against = tuple(engine for engine in engines if engine not in files)
    artefacts = [engine for engine in engines if engine not in against]
    command = ["exporter", "bench", *artefacts, "--against", ",".join(against) or "none"]
    batches = settings.get("batches")
    if isinstance(batches, list):
        command += ["--batch", ",".join(map(str, batches))]
    for key, option in _BENCH_OPTIONS.items():
        if isinstance(settings.get(key), (int, float, str)):
            command += [option, plain(settings[key])]
    return shlex.join(command)


def _origin(value: Json, name: str, command: str) -> Origin:
    return Origin(
        name,
        maybe(text, value, "command") or command,
        maybe(text, value, "date"),
        maybe(mapping, value, "machine") or {},
        maybe(mapping, value, "versions") or {},
    )


def evaluation(value: Json, name: str) -> list[data.Scored]:
    """Read what ``exporter evaluate --json`` printed."""
    rows = objects(value, "results")
    named = [text(row, "engine") for row in rows]
    named = [engine.removesuffix(" (simulated)") for engine in named if engine != KERAS]
    used = text(value, "data")
    origin = _origin(value, name, shlex.join(["exporter", "evaluate", *named, "--data", used]))
    return [_scored(row, origin, used, text(row, "engine")) for row in rows]


def recorded_accuracy(value: Json, one: Artifact, name: str) -> list[data.Scored]:
    """Read what ``exporter evaluate`` recorded in a passport: the original and the artifact."""
    used = text(value, "data")
    command = shlex.join(["exporter", "evaluate", str(one.path), "--data", used])
    origin = _origin(value, name, command)
    engine = f"{one.path} (simulated)" if targets.simulates(one) else str(one.path)
    return [
        _scored(mapping(value, "keras"), origin, used, KERAS),
        _scored(value, origin, used, engine),
    ]


def _scored(row: Json, origin: Origin, used: str, engine: str) -> data.Scored:
    return data.Scored(
        origin,
        engine,
        used,
        count(row, "images"),
        number(row, "top1"),
        maybe(number, row, "top5"),
        made(_agreement, row, "against_keras"),
        made(_paired, row, "paired"),
    )


def _agreement(value: Json) -> Agreement:
    errors = (number(value, f"{key}_error") for key in ("max_abs", "mean_abs", "max_relative"))
    return Agreement(count(value, "images"), count(value, "label_flips"), *errors)


def _paired(value: Json) -> Paired:
    interval = value.get("interval_points")
    if not isinstance(interval, list) or len(interval) != 2:
        raise Damaged("'interval_points' is not two numbers")
    ends = {"low": interval[0], "high": interval[1]}
    return Paired(
        count(value, "images"),
        count(value, "lost"),
        count(value, "won"),
        number(value, "change_points"),
        (number(ends, "low"), number(ends, "high")),
        number(value, "p_value"),
    )


def drift(value: Json, path: Path, name: str) -> data.Drift:
    """Read the ``ladder.json`` of ``exporter evaluate --ladder -o``, and the picture beside it."""
    artefact, used, images = text(value, "artefact"), text(value, "data"), count(value, "images")
    classes = texts(value, "classes")
    walked = made(_walk, value, "layers")
    command = ["exporter", "evaluate", artefact, "--data", used, "--ladder"]
    command += ["--layers"] if walked else []
    command += ["--limit", str(images), "-o", "FOLDER"]
    return data.Drift(
        _origin(value, name, shlex.join(command)),
        artefact,
        text(value, "target"),
        text(value, "precision"),
        used,
        images,
        text(mapping(value, "verdict"), "sentence"),
        tuple(_rung(each) for each in objects(value, "rungs")),
        tuple(_flip(each, classes) for each in objects(value, "flipped")),
        walked,
        _picture(path.with_name(PICTURE)),
    )


def _rung(value: Json) -> data.Rung:
    return data.Rung(
        text(value, "rung"),
        text(value, "what"),
        maybe(text, value, "not_run"),
        maybe(count, value, "correct"),
        maybe(number, value, "top1"),
        made(_change, value, "against_keras"),
        made(_change, value, "against_before"),
    )


def _change(value: Json) -> data.Change:
    tested = _paired(mapping(value, "paired"))
    return data.Change(_agreement(value), tested, maybe(number, value, "sqnr_db"))


def _flip(value: Json, classes: Sequence[str]) -> data.Flip:
    def named(of: Mapping[str, Any], key: str) -> str:
        label = count(of, key)
        return classes[label] if label < len(classes) else str(label)

    given = mapping(value, "predictions")
    predictions = {rung: named(given, rung) for rung in given}
    return data.Flip(count(value, "image"), named(value, "label"), predictions)


def _walk(value: Json) -> data.Walk:
    layers = tuple(
        data.Noise(
            maybe(text, layer, "keras_layer") or text(layer, "tensor"),
            text(layer, "op"),
            *(
                maybe(number, layer, f"{which}_{what}")
                for which in ("own", "total")
                for what in ("noise", "sqnr_db")
            ),
        )
        for layer in objects(value, "layers")
    )
    return data.Walk(text(value, "before"), text(value, "after"), count(value, "images"), layers)


def _picture(path: Path) -> Path | None:
    """Return a picture's path if it is a PNG that a page can carry."""
    if path.is_symlink() or not path.is_file() or path.stat().st_size > _MOST_PICTURE_BYTES:
        return None
    with path.open("rb") as file:
        return path if file.read(len(_PNG)) == _PNG else None


def sensitivity(value: Json, path: Path, name: str, owner: Artifact | None) -> data.Sensitivity:
    """Read an artifact's ``sensitivity.json``, or what ``exporter sensitivity --json`` printed."""
    scheme = text(value, "scheme")
    model = maybe(text, value, "model")
    if owner is not None:
        told = owner.passport
        of = path.parent.resolve().name
        origin = Origin(
            name,
            f"exporter export {shlex.quote(str(told['source'].get('model')))} "
            f"--to {told['target']} --precision {told['precision']} --max-drop POINTS",
            maybe(text, told, "created"),
            {},
            maybe(mapping, told, "versions") or {},
        )
    else:
        of = model or path.stem
        command = ["exporter", "sensitivity", model or "MODEL", "--scheme", scheme]
        command += ["--images", str(count(value, "images")), "--json"]
        origin = _origin(value, name, shlex.join(command))
    layers = tuple(
        data.LayerCost(
            maybe(text, layer, "keras_layer") or text(layer, "node"),
            maybe(number, layer, "sqnr_db"),
            maybe(number, layer, "noise"),
            count(layer, "label_flips"),
            count(layer, "macs"),
            number(layer, "macs_share"),
        )
        for layer in some_objects(value, "layers")
    )
    return data.Sensitivity(
        origin, of, scheme, count(value, "images"), layers, texts(value, "warnings")
    )
