"""Do two runs of ``exporter bench`` agree, and does it notice a busy machine?

Pairs of whole runs, each with an order of its own; a pair agrees where the 95% intervals of an
engine's ratio to the baseline overlap. With ``--with-load`` one more run has a spinning process
on one of its cores, and must call itself unstable for it. Run it on an idle machine:
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
from rich.console import Console

from benchmarks import result_file
from benchmarks.latency import bench as latency
from benchmarks.latency.bench import Plan
from benchmarks.latency.result import Ratio, Report
from exporter.artifact import folder as artifact
from exporter.errors import ExporterError
from exporter.network.runner import usable_cores

RESULTS = Path(__file__).parents[1] / "results" / "bench_repeatability.json"
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
    return {
        "agreeing": sum(c["agreeing"] for c in by_ratio.values()),
        "compared": sum(c["compared"] for c in by_ratio.values()),
        "by_ratio": by_ratio,
        "repeatable": repeatable,
        "text": f"{'repeatable' if repeatable else 'NOT repeatable'}: pairs whose 95% intervals "
        f"overlap: {'; '.join(parts)}",
    }


@contextlib.contextmanager
def load_on(core: int) -> Iterator[None]:
    """Keep one core busy meanwhile, in a process of its own."""
    with subprocess.Popen([sys.executable, "-c", _SPIN, str(core)], stdout=subprocess.PIPE) as spin:
        try:
            assert spin.stdout is not None
            spin.stdout.readline()  # it runs
            yield
        finally:
            spin.kill()


def noticed(report: Report) -> bool:
    """Whether a run blames other processes, before it or during its blocks."""
    return any("other processes took" in r or "was busy before" in r for r in report.unstable)


def _short(report: Report) -> dict[str, Any]:
    return {
        "ratios": {
            name: [ratio.ratio, ratio.low, ratio.high] for name, ratio in intervals(report).items()
        },
        "unstable": list(report.unstable),
        "date": report.date,
    }


def verdicts(report: Mapping[str, Any]) -> list[str]:
    """Return the lines to print."""
    runs = [run for pair in report["pairs"] for run in pair]
    shaky = sum(bool(run["unstable"]) for run in runs)
    lines = [
        report["verdict"]["text"],
        f"runs that called themselves unstable: {shaky} of {len(runs)}",
    ]
    if (loaded := report["with_load"]) is not None:
        told = "noticed" if loaded["noticed"] else "NOT noticed"
        lines.append(f"a process spinning on one core: {told} ({'; '.join(loaded['unstable'])})")
    return lines


@click.command()
@click.argument("artefacts", type=click.Path(path_type=Path), nargs=-1, required=True)
@click.option("--pairs", type=click.IntRange(min=1), default=10, show_default=True)
@click.option("--against", default="keras", show_default=True, help="As exporter bench has it.")
@click.option("--batch", type=click.IntRange(min=1), default=1, show_default=True)
@click.option("--threads", type=click.IntRange(min=1), default=usable_cores)
@click.option("--rounds", type=click.IntRange(min=5), default=5, show_default=True)
@click.option("--seconds", type=float, default=1.0, show_default=True, help="Of each block.")
@click.option("--data", default="fashion-mnist", show_default=True)
@click.option("--with-load", is_flag=True, help="One more run, beside a spinning process.")
@click.option("-o", "--output", type=click.Path(path_type=Path, dir_okay=False), default=RESULTS)
def main(
    artefacts: tuple[Path, ...],
    pairs: int,
    against: str,
    batch: int,
    threads: int,
    rounds: int,
    seconds: float,
    data: str,
    with_load: bool,
    output: Path,
) -> None:
    """Run exporter bench in pairs, and end with 3 if they disagree or a load goes unnoticed."""
    say = Console(stderr=True, highlight=False, soft_wrap=True)
    artifacts = [artifact.read(path) for path in artefacts]
    plan = Plan((batch,), threads, rounds, seconds, data=data)
    names = () if against == "none" else tuple(against.split(","))

    def once(seed: int) -> Report:
        found = latency.bench(artifacts, replace(plan, seed=seed), names)
        say.print(f"run {seed + 1}: {', '.join(f'{k} {v}' for k, v in intervals(found).items())}")
        return found

    report = result_file.header("studies.bench_repeatability")
    runs = [(once(2 * number), once(2 * number + 1)) for number in range(pairs)]
    report["pairs"] = [[_short(one), _short(other)] for one, other in runs]
    report["verdict"] = judge([(intervals(one), intervals(other)) for one, other in runs])
    report["with_load"] = None
    if with_load:
        with load_on(latency.choose_cores(threads)[-1]):
            loaded = once(2 * pairs)
        report["with_load"] = {**_short(loaded), "noticed": noticed(loaded)}
    result_file.write(report, output)
    for line in verdicts(report):
        click.echo(line)
    unnoticed = with_load and not report["with_load"]["noticed"]
    if unnoticed or not report["verdict"]["repeatable"]:
        raise SystemExit(3)


if __name__ == "__main__":
    main()
