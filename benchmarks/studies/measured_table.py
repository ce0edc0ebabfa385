"""The latencies in docs/details.md: TensorFlow against every CPU engine, network by network.

``--prepare`` exports what is missing and times nothing. Without it, the study times what is there,
which needs an idle machine. A cell is a network at a batch size: the original and four artifacts
side by side, as ``exporter bench`` times them. Every finished cell is kept, so a run that was
stopped goes on. ``--kept`` makes a table of the finished cells. Networks without trained weights
get random ones, which take the same time.

First ``python -m benchmarks.studies.measured_table --prepare``, then
``python -m benchmarks.studies.measured_table``.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import click

from benchmarks import command, result_file
from benchmarks.drift.linear_layers import linear_layers
from benchmarks.latency import bench as latency
from benchmarks.latency.bench import Plan
from benchmarks.studies import peak_probe, study
from benchmarks.studies.study import Cell, Run
from exporter import pipeline
from exporter.artifact import folder as artifact
from exporter.artifact.folder import Artifact
from exporter.cli import console
from exporter.config import Calibration, ExportConfig, Precision
from exporter.errors import ExporterError
from exporter.models import zoo

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
        ``multiply_adds`` an image; whether the weights are ``trained``; for each engine ``p50_ms``
        and its ``speedup`` over the original; and what made the run unstable.
    """
    artifacts = [artifact.read(work / network / engine.name) for engine in ENGINES]
    with console.progress_bars(quiet=False) as progress:
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
    """Count the multiply-adds of an image, in all linear layers of an FP32 artifact."""
    return sum(linear.multiply_adds for linear in linear_layers(one).values())


def share_of_peak(cell: Cell, engine: str, peaks: Mapping[str, Any]) -> float | None:
    """Return the share of the machine's peak that an engine reaches. INT8 has its own peak."""
    p50 = cell["engines"][engine]["p50_ms"]
    if p50 is None:
        return None
    numbers = "int8" if engine.endswith("int8") else "fp32"
    rate = cell["multiply_adds"] * cell["batch"] / (p50 / 1000)
    return float(rate / peaks[numbers]["multiply_adds_per_s"])


def markdown(report: Mapping[str, Any]) -> str:
    """Render the table and the lines around it from a result file."""
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


def network_name(cell: Cell) -> str:
    """Name a cell's network. Say so if its weights were never trained."""
    return str(cell["network"]) + ("" if cell["trained"] else " (random weights)")


def time_of(cell: Cell, engine: str) -> str | None:
    """Show an engine's median in ms and its speedup; None if it failed."""
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


@study.command("measured_table", "latency.json")
@click.option("--networks", callback=study.listed(click.STRING), default=",".join(NETWORKS))
@study.batches
@study.threads
@click.option("--rounds", type=click.IntRange(min=5), default=5)
@click.option("--seconds", default=0.5, help="Of each block.")
@click.option("--against", callback=study.listed(click.STRING), default=BASELINE)
@study.folder("--work", default=WORK, what="Folder of artifacts and finished cells.")
@click.option("--prepare", "prepare_only", is_flag=True, help="Export only, and time nothing.")
@click.option("--fresh", is_flag=True, help="Time finished cells again.")
@click.option("--kept", "kept_only", is_flag=True, help="Time nothing; show the finished cells.")
def main(
    log: Run,
    networks: tuple[str, ...],
    batch: tuple[int, ...],
    against: tuple[str, ...],
    work: Path,
    prepare_only: bool,
    fresh: bool,
    kept_only: bool,
    **plan: Any,
) -> None:
    """Time the zoo in TensorFlow and in every CPU engine."""
    for name in () if kept_only else networks:
        log.say(f"{name}: export what is missing")
        prepare(name, work)
    if prepare_only:
        return
    log.start(file=log.output and log.output.name, threads=plan["threads"])
    log.report["peaks"] = peak_probe.peaks(plan["threads"], work / "peaks.json")
    cells: list[Cell] = []
    for network, size in itertools.product(networks, batch):
        file = work / network / f"batch-{size}.json"
        if file.is_file() or not kept_only:
            timing = Plan((size,), warm_up_s=5.0, **plan)
            measured = partial(measure, network, size, work, timing, against)
            cells.append(study.kept(file, measured, resume=kept_only or not fresh))
            log.save(cells=cells)
    if not cells:
        raise ExporterError(f"{work} holds no finished cell of {', '.join(networks)}")
    console.say(markdown(log.report), markup=False)
    log.say("for the documentation: python -m benchmarks.studies.doc_tables")


if __name__ == "__main__":
    command.run(main)
