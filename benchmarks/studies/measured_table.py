"""The table of latencies in the README: TensorFlow against every CPU engine, network by network.

``--prepare`` exports what is missing and times nothing; without it, what is there is timed, which
wants an idle machine. Every cell (a network at a batch size: the original and four artifacts side
by side, as ``exporter bench`` times them) is kept, and a run that was stopped goes on, or with
``--kept`` becomes a table of what was finished. Networks without trained weights get random ones:
they take the same time.

``python -m benchmarks.studies.measured_table --prepare`` then ``python -m
benchmarks.studies.measured_table``.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from benchmarks import result_file
from benchmarks.drift.linear_layers import linear_layers
from benchmarks.latency import bench as latency
from benchmarks.latency.bench import Plan
from benchmarks.studies import peak_probe
from exporter import pipeline
from exporter.artifact import folder as artifact
from exporter.artifact.folder import Artifact
from exporter.config import Calibration, ExportConfig, Precision
from exporter.models import zoo
from exporter.network.runner import usable_cores

RESULTS = Path(__file__).parents[1] / "results" / "latency.json"
WORK = Path("build/measured_table")
NETWORKS = (
    "resnet18",
    "resnet34",
    "resnet50",
    "resnet101",
    "resnet152",
    "resnext26_32x4d",
    "resnext50_32x4d",
)
BASELINE = "keras"
# For random weights, whose ranges mean nothing.
_FEW_IMAGES = 32

Cell = dict[str, Any]
Peaks = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Engine:
    """One of the artifacts of every network."""

    target: str
    precision: Precision

    @property
    def name(self) -> str:
        """Its folder's name, and its column."""
        return f"{self.target}-{self.precision}"


ENGINES = tuple(Engine(t, p) for t in ("ort", "openvino") for p in ("fp32", "int8"))


def prepare(network: str, work: Path) -> None:
    """Export a network for every engine that is not there yet, all at 96x96x1."""
    folder = work / network
    folder.mkdir(parents=True, exist_ok=True)
    shipped = zoo.lookup(network).checkpoint is not None
    calibration: Path | None = None
    for engine in ENGINES:
        output = folder / engine.name
        if not (output / artifact.PASSPORT).is_file():
            few = {} if shipped else {"calibration_images": _FEW_IMAGES, "check_images": 8}
            config = ExportConfig(
                network,
                target=engine.target,
                output=output,
                precision=engine.precision,
                weights=None if shipped else "random",
                calibration=Calibration(file=calibration if engine.precision == "int8" else None),
                **few,  # type: ignore[arg-type]
            )
            pipeline.export(config)
        if engine.precision == "int8":
            calibration = output / artifact.CALIBRATION


def measure(network: str, batch: int, work: Path, plan: Plan, against: Sequence[str]) -> Cell:
    """Time one network at one batch size.

    Returns:
        ``multiply_adds`` an image, ``trained`` weights or not, by engine ``p50_ms`` and how many
        times as fast as the original it is; and what made the run unstable.
    """
    from exporter.cli.console import progress_bars

    artifacts = [artifact.read(work / network / engine.name) for engine in ENGINES]
    with progress_bars(quiet=False) as progress:
        report = latency.bench(artifacts, plan, against, progress=progress)
    names = {str(one.path): one.path.name for one in artifacts}
    return {
        "network": network,
        "batch": batch,
        "trained": artifacts[0].passport["source"]["weights"] == "shipped",
        "multiply_adds": count_multiply_adds(artifacts[0]),
        "engines": {
            names.get(row.engine, row.engine): {
                "p50_ms": row.quantiles_ms.get("50"),
                "p99_ms": row.quantiles_ms.get("99"),
                "images_per_s": row.throughput if row.blocks else None,
                "speedup": row.speedup and [row.speedup.ratio, row.speedup.low, row.speedup.high],
                "file_bytes": row.file_bytes,
                "peak_rss_mib": row.peak_rss_mib,
                "error": row.error,
            }
            for row in report.rows
        },
        "unstable": list(report.unstable),
        "settings": dict(report.settings),
        "date": report.date,
    }


def count_multiply_adds(one: Artifact) -> int:
    """Count those of an image, in all convolutions and dense layers of an FP32 artifact."""
    return sum(linear.multiply_adds for linear in linear_layers(one).values())


def share_of_peak(cell: Cell, engine: str, peaks: Mapping[str, Any]) -> float | None:
    """Return what share of the machine's peak an engine reaches, INT8's for INT8."""
    p50 = cell["engines"][engine]["p50_ms"]
    if p50 is None:
        return None
    numbers = "int8" if engine.endswith("int8") else "fp32"
    rate = cell["multiply_adds"] * cell["batch"] / (p50 / 1000)
    return float(rate / peaks[numbers]["multiply_adds_per_s"])


def markdown(report: Mapping[str, Any]) -> str:
    """Render the README's table and the lines around it from a result file."""
    columns = [BASELINE, *(engine.name for engine in ENGINES)]
    titles = ["TensorFlow", *(f"`{e.target}` {e.precision.upper()}" for e in ENGINES)]
    peaks, cells = report["peaks"], report["cells"]
    lines = [f"| network | batch | {' | '.join(titles)} |", "|---" * (len(titles) + 2) + "|"]
    for cell in cells:
        entries = [_entry(cell, column, peaks) for column in columns]
        lines.append(f"| {' | '.join([network_name(cell), str(cell['batch']), *entries])} |")
    shaky = [f"{c['network']} at {c['batch']}" for c in cells if c["unstable"]]
    which = "all of them" if len(shaky) == len(cells) else ", ".join(shaky) or "none"
    probes = [
        f"Peak in {name.upper()}: {peaks[name]['multiply_adds_per_s'] / 1e9:.0f} billion "
        f"multiply-adds a second, by a probe: {peaks[name]['probe']}."
        for name in ("fp32", "int8")
    ]
    where = f"{report['threads']} threads, 96x96x1, {result_file.processor(report['machine'])}"
    return f"""
Median milliseconds a call; times as fast as TensorFlow (a compiled `tf.function`) with its 95%
interval; share of the machine's peak. {where}, {report["date"][:10]}:

{chr(10).join(lines)}

{chr(10).join(probes)}
Times that may not repeat, for the machine was not quiet: {which}. The intervals hold that.
By `{report["command"]}`; versions and reasons: `benchmarks/results/{report["file"]}`.
"""


def highest(probed: Peaks, file: Path) -> Peaks:
    """Return the higher of these peaks and those kept, and keep it: a busy moment lowers a probe.

    Args:
        probed: as :func:`benchmarks.studies.peak_probe.probe_all` has them.
        file: where those of earlier runs on this machine are.
    """
    kept: Peaks = json.loads(file.read_text()) if file.is_file() else {}
    best = {
        name: max(peak, kept.get(name, peak), key=lambda one: float(one["multiply_adds_per_s"]))
        for name, peak in probed.items()
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    result_file.write(best, file)
    return best


def network_name(cell: Cell) -> str:
    """Name a cell's network, and say where its weights were never trained."""
    return str(cell["network"]) + ("" if cell["trained"] else " (random weights)")


def time_of(cell: Cell, engine: str) -> str | None:
    """Word an engine's median in ms and its speedup; None where it failed."""
    found = cell["engines"].get(engine)
    if found is None or found["p50_ms"] is None:
        return None
    text = f"{found['p50_ms']:.2f}"
    if found["speedup"]:
        ratio, low, high = found["speedup"]
        text += f", {ratio:.1f}x [{low:.1f}, {high:.1f}]"
    return text


def _entry(cell: Cell, engine: str, peaks: Mapping[str, Any]) -> str:
    text = time_of(cell, engine)
    return "failed" if text is None else f"{text}, {share_of_peak(cell, engine, peaks):.0%}"


def run(
    networks: Sequence[str], plans: Mapping[int, Plan], work: Path, against: Sequence[str]
) -> None:
    """Measure every cell that is not kept, the small networks first."""
    for network in networks:
        for batch, plan in plans.items():
            file = work / network / f"batch-{batch}.json"
            if not file.is_file():
                result_file.write(measure(network, batch, work, plan, against), file)


def read_kept(networks: Sequence[str], batches: Iterable[int], work: Path) -> list[Cell]:
    """Read the cells that are finished, in the order asked for."""
    files = [work / name / f"batch-{batch}.json" for name in networks for batch in batches]
    return [json.loads(file.read_text()) for file in files if file.is_file()]


@click.command()
@click.option("--networks", default=",".join(NETWORKS), show_default=True)
@click.option("--batch", default="1,32", show_default=True, help="Images a call, comma between.")
@click.option("--threads", type=click.IntRange(min=1), default=usable_cores)
@click.option("--rounds", type=click.IntRange(min=5), default=5, show_default=True)
@click.option("--seconds", type=float, default=0.5, show_default=True, help="Of each block.")
@click.option("--against", default=BASELINE, show_default=True, help="As exporter bench has it.")
@click.option(
    "--work",
    type=click.Path(path_type=Path, file_okay=False),
    default=WORK,
    show_default=True,
    help="Folder of artefacts and finished cells.",
)
@click.option("--prepare", "prepare_only", is_flag=True, help="Export only; time nothing.")
@click.option("--fresh", is_flag=True, help="Time finished cells again.")
@click.option("--kept", "kept_only", is_flag=True, help="Time nothing: a table of finished cells.")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    default=RESULTS,
    help="JSON file; default: benchmarks/results/latency.json.",
)
def main(
    networks: str,
    batch: str,
    threads: int,
    rounds: int,
    seconds: float,
    against: str,
    work: Path,
    prepare_only: bool,
    fresh: bool,
    kept_only: bool,
    output: Path,
) -> None:
    """Time the zoo in TensorFlow and in every CPU engine."""
    say = Console(stderr=True, highlight=False, soft_wrap=True)
    names = networks.split(",")
    for name in () if kept_only else names:
        say.print(f"{name}: export what is missing")
        prepare(name, work)
        if fresh:
            for file in (work / name).glob("batch-*.json"):
                file.unlink()
    if prepare_only:
        return
    report = result_file.header("studies.measured_table")
    plans = {
        size: Plan((size,), threads, rounds, seconds, warm_up_s=5.0)
        for size in map(int, batch.split(","))
    }
    probed = peak_probe.probe_all(threads, latency.choose_cores(threads))
    peaks = highest(probed, work / "peaks.json")
    if not kept_only:
        run(names, plans, work, against.split(","))
    cells = read_kept(names, plans, work)
    if not cells:
        raise click.ClickException(f"{work} holds no finished cell of {networks}")
    report |= {"file": output.name, "threads": threads, "peaks": peaks, "cells": cells}
    result_file.write(report, output)
    Console(highlight=False, soft_wrap=True).print(markdown(report), markup=False)
    say.print("for the README: python -m benchmarks.studies.readme_tables")


if __name__ == "__main__":
    main()
