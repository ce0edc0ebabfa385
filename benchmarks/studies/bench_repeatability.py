"""Do two runs of ``exporter bench`` agree, and does it notice a busy machine?

Whole runs are made in pairs, each with its own order. A pair agrees if the 95% intervals of an
engine's ratio to the baseline overlap. With ``--with-load``, one more run has a spinning process on
one of its cores, and it must call itself unstable. Run it on an idle machine:
``python -m benchmarks.studies.bench_repeatability resnet18-int8 --pairs 10 --with-load``.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from benchmarks import command
from benchmarks.latency import bench as latency
from benchmarks.latency.bench import Plan
from benchmarks.latency.result import Ratio, Report
from benchmarks.studies import study
from benchmarks.studies.study import Run
from exporter.artifact import folder as artifact
from exporter.cli import console
from exporter.errors import ExporterError

NEEDED = 0.9
_SPIN = "import os, sys\nos.sched_setaffinity(0, [int(sys.argv[1])])\nprint(flush=True)\nwhile 1: 0"

Intervals = dict[str, Ratio]


def intervals(report: Report) -> Intervals:
    """Return each ratio of a run by ``ENGINE, batch N``."""
    return {
        f"{row.engine}, batch {row.batch}": row.speedup
        for row in report.rows
        if row.speedup is not None
    }


def overlap(one: Ratio, other: Ratio) -> bool:
    """Whether two intervals have a value in common."""
    return one.low <= other.high and other.low <= one.high


def judge(pairs: Sequence[tuple[Intervals, Intervals]]) -> dict[str, Any]:
    """Count the pairs that agree, by engine and batch size.

    Returns:
        ``agreeing`` of ``compared`` in all and ``by_ratio``; ``repeatable``: at least
        :data:`NEEDED` of each; ``text``: the verdict.

    Raises:
        ExporterError: nothing was measured in both runs of any pair.
    """
    found: dict[str, list[bool]] = {}
    for first, second in pairs:
        for name in first.keys() & second.keys():
            found.setdefault(name, []).append(overlap(first[name], second[name]))
    if not found:
        raise ExporterError("no ratio was measured in both runs of any pair")
    by_ratio = {
        name: {"agreeing": sum(agreed), "compared": len(agreed)}
        for name, agreed in sorted(found.items())
    }
    repeatable = all(c["agreeing"] >= NEEDED * c["compared"] for c in by_ratio.values())
    parts = [f"{name}: {c['agreeing']} of {c['compared']}" for name, c in by_ratio.items()]
    said = f"{'repeatable' if repeatable else 'NOT repeatable'}: pairs whose 95% intervals overlap"
    return {
        "agreeing": sum(c["agreeing"] for c in by_ratio.values()),
        "compared": sum(c["compared"] for c in by_ratio.values()),
        "by_ratio": by_ratio,
        "repeatable": repeatable,
        "text": f"{said}: {'; '.join(parts)}",
    }


@contextlib.contextmanager
def load_on(core: int) -> Iterator[None]:
    """Keep one core busy with a process of its own."""
    with subprocess.Popen([sys.executable, "-c", _SPIN, str(core)], stdout=subprocess.PIPE) as spin:
        try:
            assert spin.stdout is not None
            spin.stdout.readline()  # it runs
            yield
        finally:
            spin.kill()


def noticed(report: Report) -> bool:
    """Whether a run says that other processes ran before it or during its blocks."""
    return any("other processes took" in r or "was busy before" in r for r in report.unstable)


def _short(report: Report) -> dict[str, Any]:
    ratios = {name: [one.ratio, one.low, one.high] for name, one in intervals(report).items()}
    return {"ratios": ratios, "unstable": list(report.unstable), "date": report.date}


def verdicts(report: Mapping[str, Any]) -> list[str]:
    """Return the lines to print."""
    runs = [run for pair in report["pairs"] for run in pair]
    shaky = sum(bool(run["unstable"]) for run in runs)
    lines = [
        report["verdict"]["text"],
        f"runs that called themselves unstable: {shaky} of {len(runs)}",
    ]
    if loaded := report["with_load"]:
        told = "noticed" if loaded["noticed"] else "NOT noticed"
        lines.append(f"a process spinning on one core: {told} ({'; '.join(loaded['unstable'])})")
    return lines


@study.command("bench_repeatability", "bench_repeatability.json")
@study.artifacts
@click.option("--pairs", type=study.COUNT, default=10)
@click.option("--against", default="keras", help="As exporter bench takes it.")
@click.option("--batch", type=study.COUNT, default=1)
@study.threads
@click.option("--rounds", type=click.IntRange(min=5), default=5)
@click.option("--seconds", default=1.0, help="Of each block.")
@study.data
@click.option("--with-load", is_flag=True, help="Make one more run beside a spinning process.")
def main(
    log: Run, artefacts: tuple[Path, ...], pairs: int, against: str, with_load: bool, **plan: Any
) -> None:
    """Run exporter bench in pairs. Exit code 3: they disagree, or a load goes unnoticed."""
    artifacts = [artifact.read(path) for path in artefacts]
    planned = Plan((plan.pop("batch"),), **plan)
    names = () if against == "none" else tuple(against.split(","))

    def once(seed: int) -> Report:
        found = latency.bench(artifacts, replace(planned, seed=seed), names)
        log.say(f"run {seed + 1}: {', '.join(f'{k} {v}' for k, v in intervals(found).items())}")
        return found

    log.start(with_load=None)
    runs: list[tuple[Report, Report]] = []
    for number in range(pairs):
        runs.append((once(2 * number), once(2 * number + 1)))
        log.save(pairs=[[_short(one), _short(other)] for one, other in runs])
    log.save(verdict=judge([(intervals(one), intervals(other)) for one, other in runs]))
    if with_load:
        with load_on(latency.choose_cores(planned.threads)[-1]):
            loaded = once(2 * pairs)
        log.save(with_load={**_short(loaded), "noticed": noticed(loaded)})
    for line in verdicts(log.report):
        console.say(line, markup=False)
    unnoticed = with_load and not log.report["with_load"]["noticed"]
    if unnoticed or not log.report["verdict"]["repeatable"]:
        raise SystemExit(3)


if __name__ == "__main__":
    command.run(main)
