"""Where a CPU engine's time goes, layer by layer, beside the time the machine's peak would take.

Every convolution and dense layer with its multiply-adds, everything else by its op, and what a
call takes beside the engine's own account of its layers. Sums of milliseconds over the peak's
are what another kernel, another fusion or fewer calls could win at most.

Each block compiles the engine anew in one fresh, pinned process and takes the mean over its
calls; figures are medians over blocks. A profiled call is slower than a plain one (a clock is
read around every layer), so these figures are for shares, and `exporter bench` is for latency.

``python -m benchmarks.studies.layer_times build/measured_table/resnet18/openvino-int8``
"""

from __future__ import annotations

import itertools
import json
import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click
import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks import command, result_file
from benchmarks.drift.linear_layers import Linear, linear_layers, name_layers
from benchmarks.latency import bench as latency
from benchmarks.latency import worker
from benchmarks.studies import measured_table, peak_probe
from exporter.artifact import folder as artifact
from exporter.artifact.folder import Artifact
from exporter.errors import WrongUse
from exporter.network.runner import usable_cores

RESULTS = Path(__file__).parents[1] / "results" / "layer_times.json"
WARM_UP_CALLS = 10
OUTSIDE = "between and around the layers"
LEAST_SHARE = 0.02  # of a call, for a line of its own in the README

Totals = dict[str, tuple[str, float]]
"""By node: its op in the engine, and milliseconds over all calls so far."""


@dataclass(frozen=True)
class Job:
    """One artifact at one batch size.

    Attributes:
        artifact: its folder.
        batch: images a call.
        threads: of the engine.
        cores: that the process is pinned to; empty where it can't be.
        blocks: engines compiled, one after the other.
        calls: of each, after `WARM_UP_CALLS`.
    """

    artifact: str
    batch: int
    threads: int
    cores: tuple[int, ...]
    blocks: int = 9
    calls: int = 40


@dataclass(frozen=True)
class Node:
    """One node of an engine.

    Attributes:
        name: the engine's.
        op: the engine's.
        ms: a call.
        linear: the ONNX node of a convolution or dense layer; None for anything else.
    """

    name: str
    op: str
    ms: float
    linear: str | None


def profile(job: Job) -> dict[str, Any]:
    """Profile one artifact in this process, which must be fresh.

    Returns:
        ``call_ms``, and ``nodes`` as :class:`Node` has them, in the engine's order.

    Raises:
        ExporterError: a linear layer of the graph is not in the engine's account.
        WrongUse: the artifact is for no CPU engine.
    """
    if job.cores:
        os.sched_setaffinity(0, job.cores)
    one = artifact.read(Path(job.artifact))
    if one.target not in PROFILERS:
        raise WrongUse(f"{one.path} is for {one.target}", hint=f"known: {', '.join(PROFILERS)}")
    blocks = [PROFILERS[one.target](one, job) for _ in range(job.blocks)]
    totals = [nodes for _, nodes in blocks]
    ops = {name: op for total in totals for name, (op, _) in total.items()}
    layer_of = name_layers(list(ops), linear_layers(one))
    nodes = [
        Node(
            name,
            op,
            statistics.median(
                max(0.0, total.get(name, (op, 0.0))[1]) / job.calls for total in totals
            ),
            layer_of.get(name),
        )
        for name, op in ops.items()
    ]
    return {
        "call_ms": statistics.median(seconds for seconds, _ in blocks) * 1000 / job.calls,
        "nodes": [asdict(node) for node in nodes],
    }


def answer(job: str) -> worker.Answer:
    """Profile the artifact of a job, in a process of its own."""
    given = json.loads(job)
    return profile(Job(**{**given, "cores": tuple(given["cores"])}))


def _feeds(one: Artifact, batch: int) -> dict[str, np.ndarray[Any, np.dtype[np.float32]]]:
    """Random images: no CPU kernel's time depends on the values."""
    (port,) = one.passport["graph"]["inputs"]
    shape = [batch, *port["shape"][1:]]
    return {port["name"]: np.random.default_rng(0).random(shape, np.float32)}


def _timed(call: Callable[[], object], calls: int) -> float:
    started = time.perf_counter()
    for _ in range(calls):
        call()
    return time.perf_counter() - started


def _in_onnxruntime(one: Artifact, job: Job) -> tuple[float, Totals]:
    """Read onnxruntime's trace, an event a node and call; the first calls are left out."""
    from exporter.targets.ort import OrtRunner

    feeds = _feeds(one, job.batch)
    with TemporaryDirectory(prefix="layer-times-") as folder:
        prefix = Path(folder, "trace")
        with OrtRunner(one.file(artifact.MODEL), job.threads, trace=prefix) as runner:
            for _ in range(WARM_UP_CALLS):
                runner.infer(feeds)
            seconds = _timed(lambda: runner.infer(feeds), job.calls)
        (file,) = Path(folder).iterdir()
        events = [event for event in json.loads(file.read_text()) if event.get("cat") == "Node"]
    by_node: dict[str, list[dict[str, Any]]] = {}
    for event in events:
        if event["name"].endswith("_kernel_time"):
            by_node.setdefault(event["name"].removesuffix("_kernel_time"), []).append(event)
    return seconds, {
        name: (each[0]["args"]["op_name"], sum(e["dur"] for e in each[WARM_UP_CALLS:]) / 1000)
        for name, each in by_node.items()
    }


def _in_openvino(one: Artifact, job: Job) -> tuple[float, Totals]:
    """Ask OpenVINO for its means before and after; it averages over all calls of an engine.

    A node that only moves memory around may not have run in the first.
    """
    from exporter.targets import openvino

    files = (one.file(openvino.IR), one.file(openvino.WEIGHTS))
    passport = one.passport
    feeds = _feeds(one, job.batch)
    runner = openvino.OpenVinoRunner(
        files, passport["precision"], passport["graph"], job.threads, profiled=True
    )
    with runner:
        for _ in range(WARM_UP_CALLS):
            runner.infer(feeds)
        before = runner.mean_ms_by_node()
        seconds = _timed(lambda: runner.infer(feeds), job.calls)
        after = runner.mean_ms_by_node()
    every = WARM_UP_CALLS + job.calls
    return seconds, {
        name: (op, ms * every - before.get(name, (op, 0.0))[1] * WARM_UP_CALLS)
        for name, (op, ms) in after.items()
    }


PROFILERS: dict[str, Callable[[Artifact, Job], tuple[float, Totals]]] = {
    "ort": _in_onnxruntime,
    "openvino": _in_openvino,
}


@dataclass(frozen=True)
class Share:
    """Nodes of one kind.

    Attributes:
        what: the layers' kernel and output, or the op.
        nodes: how many.
        ms: of a call, all of them.
        ideal_ms: what their multiply-adds would take at the machine's peak.
        weight_bytes: that a call reads at least once.
    """

    what: str
    nodes: int = 0
    ms: float = 0.0
    ideal_ms: float = 0.0
    weight_bytes: int = 0

    def __add__(self, other: Share) -> Share:
        """Take two together, by the first one's name."""
        return Share(
            self.what,
            self.nodes + other.nodes,
            self.ms + other.ms,
            self.ideal_ms + other.ideal_ms,
            self.weight_bytes + other.weight_bytes,
        )


def shares(
    found: Mapping[str, Any],
    linears: Mapping[str, Linear],
    batch: int,
    peak: float,
    weight_size: int,
) -> list[Share]:
    """Sum up nodes of the same shape or op, the most to win first.

    Args:
        found: what :func:`profile` returned.
        linears: of :func:`benchmarks.drift.linear_layers.linear_layers`.
        batch: images a call.
        peak: multiply-adds a second.
        weight_size: bytes a weight.
    """
    sums: dict[str, Share] = {}
    for node in found["nodes"]:
        linear = linears.get(node["linear"] or "", Linear(0, 0, node["op"], ()))
        ideal_ms = linear.multiply_adds * batch / peak * 1000
        one = Share(linear.what, 1, node["ms"], ideal_ms, linear.weights * weight_size)
        sums[one.what] = sums.get(one.what, Share(one.what)) + one
    rest = found["call_ms"] - sum(share.ms for share in sums.values())
    rows = [share for share in sums.values() if share.ms > 0]
    rows.append(Share(OUTSIDE, ms=max(0.0, rest)))
    return sorted(rows, key=lambda share: share.ideal_ms - share.ms)


def measure(path: Path, batch: int, threads: int, peaks: Mapping[str, Any]) -> dict[str, Any]:
    """Profile one artifact at one batch size in a process of its own.

    Raises:
        ExporterError: as :func:`profile`.
    """
    one = artifact.read(path)
    cores = tuple(latency.choose_cores(threads))
    job = Job(str(path), batch, threads, cores)
    found = worker.need("benchmarks.studies.layer_times:answer", json.dumps(asdict(job)))
    numbers, size = ("int8", 1) if one.passport["precision"] == "int8" else ("fp32", 4)
    peak = peaks[numbers]["multiply_adds_per_s"]
    rows = shares(found, linear_layers(one), batch, peak, size)
    return {
        "artifact": path.name,
        "network": one.passport["source"]["model"],
        "target": one.target,
        "precision": one.passport["precision"],
        "batch": batch,
        "call_ms": found["call_ms"],
        "shares": [asdict(row) for row in rows],
        "nodes": found["nodes"],
    }


COLUMNS = ("nodes", "ms", "of the call", "of the peak", "weights, GB/s", "to win, ms")


def table(result: Mapping[str, Any]) -> Table:
    """Show one profile, the most to win first."""
    shown = Table(title=_title(result), title_justify="left")
    shown.add_column("layers")
    for column in COLUMNS:
        shown.add_column(column, justify="right")
    for row in result["shares"]:
        shown.add_row(row["what"], *_cells(row, result["call_ms"]))
    return shown


def markdown(report: Mapping[str, Any]) -> str:
    """Render the README's tables of the first artifact, one a batch size, from a result file."""
    lines, first = [], report["results"][0]["artifact"]
    for result in (one for one in report["results"] if one["artifact"] == first):
        lines += [_title(result) + ":", "", f"| layers | {' | '.join(COLUMNS)} |"]
        lines.append("| --- |" + " --: |" * len(COLUMNS))
        for row in _largest(result["shares"], LEAST_SHARE * result["call_ms"]):
            entries = (row["what"], *_cells(row, result["call_ms"]))
            lines.append(f"| {' | '.join(entries)} |")
        lines.append("")
    cpu = result_file.processor(report["machine"])
    where = f"{report['threads']} threads, {cpu}, {report['date'][:10]}"
    lines.append(f"By `{report['command']}`;")
    lines.append(f"{where}; all layers: `benchmarks/results/layer_times.json`.")
    return "\n".join(lines)


def _largest(rows: Sequence[Mapping[str, Any]], least_ms: float) -> list[Mapping[str, Any]]:
    """Take all rows under so many milliseconds together, as the last."""
    rest = Share("all else")
    for row in rows:
        if row["ms"] < least_ms:
            rest += Share(**{**row, "weight_bytes": 0, "ideal_ms": 0.0})
    return [*(row for row in rows if row["ms"] >= least_ms), asdict(rest)]


def _title(result: Mapping[str, Any]) -> str:
    return (
        f"`{result['network']}`, `{result['target']}` {result['precision'].upper()}, "
        f"batch {result['batch']}, {result['call_ms']:.2f} ms a call while profiled"
    )


def _cells(row: Mapping[str, Any], call_ms: float) -> tuple[str, ...]:
    ms, ideal = row["ms"], row["ideal_ms"]
    return (
        str(row["nodes"] or ""),
        f"{ms:.2f}",
        f"{ms / call_ms:.0%}",
        f"{ideal / ms:.0%}" if ideal else "",
        f"{row['weight_bytes'] / ms / 1e6:.1f}" if row["weight_bytes"] else "",
        f"{ms - ideal:.2f}",
    )


@click.command()
@click.argument("artifacts", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True))
@click.option("--batch", default="1,32", show_default=True, help="Images a call, comma between.")
@click.option("--threads", type=click.IntRange(min=1), default=usable_cores)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    default=RESULTS,
    help="JSON file; default: benchmarks/results/layer_times.json.",
)
def main(artifacts: Sequence[Path], batch: str, threads: int, output: Path) -> None:
    """Show where the time of CPU ARTIFACTS goes, layer by layer."""
    say = Console(highlight=False, soft_wrap=True)
    report = result_file.header("studies.layer_times")
    probed = peak_probe.probe_all(threads, latency.choose_cores(threads))
    peaks = measured_table.highest(probed, measured_table.WORK / "peaks.json")
    results = []
    for path, size in itertools.product(artifacts, map(int, batch.split(","))):
        results.append(measure(path, size, threads, peaks))
        say.print(table(results[-1]))
    result_file.write({**report, "threads": threads, "peaks": peaks, "results": results}, output)
    say.print(f"all layers: {output}")


if __name__ == "__main__":
    command.run(main)
