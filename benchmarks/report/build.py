"""Build the page from the findings: its sections, and what is not measured yet."""

from __future__ import annotations

import json
import shlex
from typing import Any

from benchmarks.report import layers, overview, timing, words
from benchmarks.report.blocks import Block, Code, Facts, Fold, Page, Section, Table, Words
from benchmarks.report.data import Findings, Subject
from benchmarks.report.values import maybe, text


def build(findings: Findings) -> Page:
    """Lay out what was found."""
    of, cards = overview.cards(findings)
    table = overview.summary(findings)
    parts = (
        Section("summary", "Summary", tuple(table)) if table else None,
        overview.trade(findings),
        timing.latency(findings),
        overview.accuracy(findings),
        layers.drift(findings),
        layers.sensitivity(findings),
        _passports(findings),
    )
    verdicts = overview.verdicts(findings)
    if not verdicts:
        verdicts = ["Neither accuracy nor latency is measured yet. The commands are below."]
    return Page(
        findings.title,
        overview.subtitle(findings),
        tuple(verdicts),
        tuple(overview.cautions(findings)),
        tuple(cards),
        of,
        tuple(part for part in parts if part is not None),
        todo(findings),
        [(one.file, one.why) for one in findings.missed],
    )


def as_json(findings: Findings, page: Page) -> dict[str, Any]:
    """Return the findings and the text of the page as JSON values."""
    return {
        **findings.as_json(),
        "verdicts": list(page.verdicts),
        "cautions": list(page.cautions),
        "todo": [{"what": what, "command": command} for what, command in page.todo],
    }


def todo(findings: Findings) -> list[tuple[str, str]]:
    """List each missing kind of result with the command that makes it."""
    artifacts = [one.artifact for one in findings.subjects]
    of_one = [one for one in artifacts if one.passport["source"] == artifacts[0].passport["source"]]
    paths = [str(one.path) for one in of_one]
    some = shlex.join(paths) if paths else "ARTIFACT..."
    first = shlex.quote(paths[0]) if paths else "ARTIFACT"
    folder = shlex.quote(str(findings.folder))
    model = str(artifacts[0].passport["source"].get("model")) if artifacts else "MODEL"
    used = findings.scores[0].data if findings.scores else "DATA"
    data = f"--data {shlex.quote(used)}"
    rows = (
        (findings.benches, "latency", f"exporter bench {some}"),
        (findings.scores, "accuracy", f"exporter evaluate {some} {data}"),
        (
            findings.drifts,
            "the drift ladder",
            f"exporter evaluate {first} {data} --ladder --layers -o {folder}/drift",
        ),
        (
            findings.sensitivities,
            "layer sensitivities",
            f"exporter sensitivity {shlex.quote(model)} --json > {folder}/sensitivity.json",
        ),
        (findings.subjects, "artifacts", f"exporter export --to ort -o {folder}/ARTIFACT"),
    )
    return [(what, command) for found, what, command in rows if not found]


def _passports(findings: Findings) -> Section | None:
    folds = tuple(_passport(one) for one in findings.subjects)
    read = "The record in each artifact: its source, the steps it went through, and its files."
    title = "Passports" if len(folds) > 1 else "Passport"
    return Section("passports", title, (Words(read), *folds)) if folds else None


def _passport(one: Subject) -> Fold:
    passport = one.artifact.passport
    files = Table(
        "Files",
        ("file", "bytes", "SHA-256"),
        tuple(
            (name, f"{file.get('bytes', 0):,}", file["sha256"])
            for name, file in passport["files"].items()
        ),
        words=(0, 2),
    )
    blocks: list[Block] = [Facts(one.facts), files]
    versions = passport.get("versions")
    if isinstance(versions, dict):
        pairs = tuple((str(name), str(value)) for name, value in versions.items())
        blocks.append(Fold("Versions used for the export", (Facts(pairs),)))
    whole = json.dumps(passport, indent=1, ensure_ascii=False)
    blocks.append(Fold("The full passport.json", (Code(whole),)))
    made = words.when(maybe(text, passport, "created"))
    return Fold(one.name, tuple(blocks), f"{one.kind}, made: {made}")
