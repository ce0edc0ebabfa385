"""Find and read the artifacts and results in a folder; report damaged files instead of guessing."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.report import parse
from benchmarks.report.data import Bench, Findings, Missed, Scored, Subject
from benchmarks.report.values import Damaged, Json, count, mapping
from exporter.artifact import folder as artifact
from exporter.artifact.folder import PASSPORT, Artifact, Passport
from exporter.errors import ExporterError, WrongUse
from exporter.untrusted import read_json_file

Describe = Callable[[Passport], list[tuple[str, str]]]

_MOST_BYTES = 64_000_000
_MOST_FILES = 2000
_DEPTH = 4
# Files of an artifact that its passport already covers.
_PAPERS = (PASSPORT, artifact.CALIBRATION, "layers.json")


def gather(folder: Path, describe: Describe) -> Findings:
    """Read all artifacts and results in a folder and its subfolders.

    Symbolic links and hidden folders are not followed.

    Args:
        folder: an artifact, or a folder of artifacts and results.
        describe: picks from a passport what a person wants to see first.

    Raises:
        WrongUse: no such folder, or nothing in it to report.
    """
    if not folder.is_dir():
        raise WrongUse(f"no such folder: {folder}", hint="name an artifact, or a folder of results")
    found = _Gathered(folder, describe)
    for path in _files(folder):
        found.take(path)
    findings = found.findings()
    if not findings:
        said = f" ({found.missed[0].file}: {found.missed[0].why})" if found.missed else ""
        raise WrongUse(
            f"nothing to report in {folder}: no artifact and no result{said}",
            hint="exporter export makes an artifact; exporter bench -o FILE and "
            "exporter evaluate --ladder -o FOLDER leave results",
        )
    return findings


def _files(folder: Path) -> Iterator[Path]:
    """Yield the JSON files; a passport comes before the other files of its folder."""
    seen = 0
    for place, folders, names in os.walk(folder):
        depth = len(Path(place).relative_to(folder).parts)
        folders[:] = sorted(n for n in folders if not n.startswith(".") and depth < _DEPTH)
        for name in sorted(names, key=lambda name: (name != PASSPORT, name)):
            path = Path(place, name)
            if not name.endswith(".json") or path.is_symlink():
                continue
            seen += 1
            if seen > _MOST_FILES:
                raise WrongUse(
                    f"more than {_MOST_FILES} JSON files in {folder}",
                    hint="name the folder that the artifacts and their results are in",
                )
            yield path


class _Gathered:
    """Everything that was read so far."""

    def __init__(self, folder: Path, describe: Describe) -> None:
        self.folder, self.describe = folder, describe
        self.subjects: list[Subject] = []
        self.benches: list[Bench] = []
        self.recorded: list[Bench] = []
        self.scores: list[Scored] = []
        self.drifts: list[Any] = []
        self.sensitivities: list[Any] = []
        self.missed: list[Missed] = []

    def take(self, path: Path) -> None:
        """Read one file if it is a result of ours."""
        beside = (path.parent / PASSPORT).is_file()
        if path.name != PASSPORT and beside and path.name in _PAPERS:
            return
        name = path.relative_to(self.folder).as_posix()
        try:
            if path.name == PASSPORT:
                self._passport(artifact.read(path.parent), name)
                return
            value = read_json_file(path, "a result of exporter", most_bytes=_MOST_BYTES)
            if isinstance(value, dict):
                self._result(value, path, name)
        except (Damaged, WrongUse, ExporterError) as error:
            why = error.message if isinstance(error, ExporterError) else str(error)
            self.missed.append(Missed(name, why))

    def _passport(self, one: Artifact, name: str) -> None:
        for file in one.passport["files"].values():
            count(file, "bytes")
        self.subjects.append(Subject(one, _described(one, self.describe)))
        measured = one.passport.get("measured", {})
        if not isinstance(measured, dict):
            raise Damaged("'measured' is not an object")
        if "accuracy" in measured:
            self.scores += parse.recorded_accuracy(mapping(measured, "accuracy"), one, name)
        if "latency" in measured:
            self.recorded.append(parse.recorded_latency(mapping(measured, "latency"), one, name))

    def _result(self, value: Json, path: Path, name: str) -> None:
        if value.get("benchmark") == "latency":
            self.benches.append(parse.latency(value, name))
        elif {"rungs", "verdict", "artefact"} <= value.keys():
            self.drifts.append(parse.drift(value, path, name))
        elif {"scheme", "layers", "images"} <= value.keys():
            self.sensitivities.append(parse.sensitivity(value, path, name, self._owner(path)))
        elif {"data", "results"} <= value.keys():
            self.scores += parse.evaluation(value, name)
        elif "benchmark" in value:
            self.missed.append(Missed(name, f"reports can't show {value['benchmark']!r} results"))

    def _owner(self, path: Path) -> Artifact | None:
        """Return the artifact that owns a file."""
        owners = (one.artifact for one in self.subjects if one.artifact.path == path.parent)
        return next((one for one in owners if path.name in one.passport["files"]), None)

    def findings(self) -> Findings:
        """Sort the findings, and drop what passports repeat from result files."""
        dates = {bench.origin.date for bench in self.benches}
        left = [one for one in self.recorded if one.origin.date not in dates]
        return Findings(
            self.folder,
            tuple(self.subjects),
            tuple(sorted([*self.benches, *_merged(left)], key=_date, reverse=True)),
            tuple(_without_repeats(self.scores)),
            tuple(sorted(self.drifts, key=_date, reverse=True)),
            tuple(self.sensitivities),
            tuple(self.missed),
        )


def _described(one: Artifact, describe: Describe) -> tuple[tuple[str, str], ...]:
    """Describe a passport.

    Raises:
        Damaged: it lacks what a description needs.
    """
    try:
        return tuple((str(name).strip(), str(value)) for name, value in describe(one.passport))
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise Damaged(f"the passport is damaged: {error!r}") from error


def _date(one: Any) -> str:
    return one.origin.date or ""


def _merged(recorded: list[Bench]) -> Iterator[Bench]:
    """Merge the records of one run from several passports."""
    runs: dict[tuple[Any, ...], list[Bench]] = {}
    for one in recorded:
        runs.setdefault((one.origin.date, one.baseline, one.scenario), []).append(one)
    for parts in runs.values():
        first = parts[0]
        rows = {(row.batch, row.engine): row for part in parts for row in part.rows}
        order = list(dict.fromkeys(row.engine for part in parts for row in part.rows))
        in_order = sorted(rows.values(), key=lambda row: (row.batch, order.index(row.engine)))
        files = ", ".join(part.origin.file for part in parts)
        command = parse.bench_command(in_order, first.settings)
        origin = replace(first.origin, file=files, command=command)
        yield replace(first, origin=origin, rows=tuple(in_order))


def _without_repeats(scores: list[Scored]) -> Iterator[Scored]:
    """Yield most images first, then newest; each engine once per set of images."""
    seen = set()
    for one in sorted(scores, key=lambda one: (one.images, _date(one)), reverse=True):
        key = (one.engine, one.data, one.images)
        if key not in seen:
            seen.add(key)
            yield one
