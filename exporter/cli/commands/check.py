"""``exporter check``: the gate that stops a release if it drifted from its baseline."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from exporter.cli.options import data_help, folder_type, json_option, trust_options
from exporter.config import Trust
from exporter.errors import GateRefused, Missing, WrongUse

if TYPE_CHECKING:
    from benchmarks.gate.report import Checked

_MOST_REASONS = 10


@click.command()
@click.argument("artefacts", metavar="ARTIFACT...", type=folder_type, nargs=-1, required=True)
@click.option("--baseline", type=folder_type, required=True, help="The committed JSON file.")
@click.option(
    "--update", is_flag=True, help="Accept each ARTIFACT: write its entry in the baseline."
)
@click.option("--data", help=f"Test images; default: the baseline's. {data_help}")
@click.option(
    "--limit",
    type=click.IntRange(min=1),
    help="With --update: use only the first N images. A check uses as many as its baseline.",
)
@click.option(
    "--graph-only", is_flag=True, help="Compare only graphs, ranges and files; run nothing."
)
@click.option("--original", help="The Keras model, if it has moved since the export.")
@trust_options
@click.option("--junit", type=folder_type, metavar="FILE", help="Write JUnit XML.")
@click.option(
    "--summary",
    type=folder_type,
    metavar="FILE",
    help='Append Markdown to this file, such as "$GITHUB_STEP_SUMMARY".',
)
@json_option
def check(
    artefacts: tuple[Path, ...],
    baseline: Path,
    update: bool,
    data: str | None,
    limit: int | None,
    graph_only: bool,
    original: str | None,
    trust: Trust,
    junit: Path | None,
    summary: Path | None,
    as_json: bool,
) -> None:
    """Compare each ARTIFACT with a committed baseline, and exit with 3 if one drifted.

    check first compares the graph, the weights by layer, Q/DQ and their ranges, runtime fusions
    and file sizes. Then it runs each artifact and Keras on the baseline's images. Top-1 and
    agreement with Keras get a paired test. A change inside the 95% interval counts as chance and
    passes. Latency is compared as a ratio, if the passport has one.

    The first figure from the top that drifted is the step where the drift began; its row names
    the layers. Tolerances and their reasons are in the baseline file: change them there. If you
    meant the change, accept it with --update, and review the diff of the file.

    Without a GPU, an engine that needs one is simulated and compared with the baseline's
    simulation. Entries are keyed by model, target, precision, scheme and weight bits. If an
    artifact has no entry, the others are still compared, and the exit code is 4.

    \b
    Examples:
      exporter check --baseline baseline.json --update resnet18-ort --data fashion-mnist
      exporter check --baseline baseline.json resnet18-ort
      exporter check --baseline baseline.json resnet18-ort --junit check.xml --summary summary.md
    """
    from benchmarks.gate import baseline as baselines
    from benchmarks.gate import run as gate_run
    from exporter.artifact import folder as artifact
    from exporter.cli import console

    if limit is not None and not update:
        raise WrongUse("--limit needs --update; a check uses as many images as its baseline")
    if graph_only and (data or limit):
        raise WrongUse("--graph-only runs nothing, so it can't be used with --data or --limit")
    artifacts = [artifact.read(path) for path in artefacts]
    new = update and not baseline.exists()
    book = baselines.Baseline() if new else baselines.load(baseline)
    wanted = {}
    if not graph_only:
        wanted = gate_run.choose_images(artifacts, book, data, limit, update=update)
    with console.progress_bars(quiet=False) as progress:
        facts = gate_run.measure(
            artifacts, wanted, original=original, trust=trust, progress=progress
        )
    results = gate_run.compare(
        artifacts, facts, book, baseline, update=update, graph_only=graph_only
    )
    if update:
        for now in facts:
            book = book.updated(now)
        baselines.save(book, baseline)
    _write(results, baseline, junit, summary)
    if as_json:
        shown = [one.as_json() for one in results]
        console.print_json({"baseline": str(baseline), "updated": update, "results": shown})
    else:
        show(results)
    if not update:
        _refuse(results, baseline)


def show(results: list[Checked]) -> None:
    """Print a table per artifact, then one line per difference."""
    from exporter.cli import console

    for one in results:
        if one.missing is not None:
            console.say(f"{one.key}: {one.missing}", markup=False)
        if not one.findings:
            continue
        rows = [
            (finding.figure, finding.rung, finding.before, finding.now, finding.verdict)
            for finding in one.findings
        ]
        console.table(one.key, ("figure", "at", "baseline", "now", "verdict"), rows)
        for finding in one.findings:
            if finding.detail:
                line = f"{finding.verdict}: {finding.figure}: {finding.detail}"
                console.say(line, markup=False)


def _write(
    results: list[Checked], baseline: Path, junit: Path | None, summary: Path | None
) -> None:
    from benchmarks.gate import report as gate_report

    if junit is not None:
        junit.write_text(gate_report.junit(results), encoding="utf-8")
    if summary is not None:  # append: other tools write to the same step summary
        with summary.open("a", encoding="utf-8") as file:
            file.write(gate_report.markdown(results, baseline))


def _refuse(results: list[Checked], baseline: Path) -> None:
    """Raise an error if a figure drifted or an entry is missing.

    Raises:
        GateRefused: a figure drifted. The error names the figure, the step and the layers.
        Missing: nothing drifted, but an artifact has no entry.
    """
    found = [(one, finding) for one in results for finding in one.drifted]
    if found:
        reasons = [
            f"{one.key}: {finding.figure} ({finding.rung}): {finding.detail}"
            for one, finding in found[:_MOST_REASONS]
        ]
        more = len(found) - _MOST_REASONS
        reasons += [f"and {more} more"] if more > 0 else []
        count = f"{len(found)} figure{'' if len(found) == 1 else 's'}"
        raise GateRefused(
            f"{count} drifted from {baseline}",
            hint="\n".join([*reasons, "to accept this, run the same command with --update"]),
        )
    if lacking := [one.missing for one in results if one.missing]:
        raise Missing("\n".join(lacking))
