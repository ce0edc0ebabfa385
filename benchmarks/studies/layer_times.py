"""Where a CPU engine's time goes, layer by layer, beside the time it would take at the peak.

Every convolution and dense layer is listed with its multiply-adds, everything else by its op. The
last part is the time that a call takes outside the layers that the engine accounts for. The
difference to the time at the machine's peak is the most that another kernel, another fusion or
fewer calls could win.

Each block compiles the engine anew, in one fresh, pinned process, and takes the mean over its
calls. Figures are medians over blocks. A profiled call is slower than a plain one, because a clock
is read around every layer. So these figures are for shares. Use `exporter bench` for latency.

``python -m benchmarks.studies.layer_times build/measured_table/resnet18/openvino-int8``
"""

from __future__ import annotations

import itertools
import json
import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, astuple, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from benchmarks import command, result_file
from benchmarks.drift.linear_layers import Linear, linear_layers, name_layers
from benchmarks.latency import bench as latency
from benchmarks.latency import worker
from benchmarks.studies import measured_table, peak_probe, study
from benchmarks.studies.study import Run
from exporter.artifact import folder as artifact
from exporter.artifact.folder import Artifact
from exporter.cli import console
from exporter.errors import WrongUse
from exporter.network.runner import Feeds, Runner

BLOCKS = 9  # engines compiled, one after the other
CALLS = 40  # of each, after WARM_UP_CALLS
WARM_UP_CALLS = 10
OUTSIDE = "between and around the layers"
LEAST_SHARE = 0.02  # of a call; smaller layers share a line in the table

Totals = dict[str, tuple[str, float]]
"""By node: its op in the engine, and milliseconds over all calls so far."""


def profile(folder: str, batch: int, threads: int, cores: Sequence[int]) -> dict[str, Any]:
    """Profile one artifact at one batch size. The process must be fresh.

    Args:
        folder: of the artifact.
        batch: images a call.
        threads: of the engine.
        cores: to pin the process to; empty if it can't be pinned.

    Returns:
        ``call_ms``, and ``nodes`` in the engine's order: ``name`` and ``op`` are the engine's,
        ``ms`` is of a call, ``linear`` is the ONNX node of a convolution or dense layer, or None.

    Raises:
        ExporterError: the engine does not account for a linear layer of the graph.
        WrongUse: the artifact is for no CPU engine.
    """
    if cores:
        os.sched_setaffinity(0, cores)
    one = artifact.read(Path(folder))
    if one.target not in PROFILERS:
        raise WrongUse(f"{one.path} is for {one.target}", hint=f"known: {', '.join(PROFILERS)}")
    blocks = [PROFILERS[one.target](one, batch, threads) for _ in range(BLOCKS)]
    totals = [nodes for _, nodes in blocks]
    ops = {name: op for total in totals for name, (op, _) in total.items()}
    layer_of = name_layers(list(ops), linear_layers(one))
    nodes = []
    for name, op in ops.items():
        every_ms = [max(0.0, total.get(name, (op, 0.0))[1]) / CALLS for total in totals]
        ms = statistics.median(every_ms)
        nodes.append({"name": name, "op": op, "ms": ms, "linear": layer_of.get(name)})
    call_ms = statistics.median(seconds for seconds, _ in blocks) * 1000 / CALLS
    return {"call_ms": call_ms, "nodes": nodes}


def _feeds(one: Artifact, batch: int) -> Feeds:
    """Return random images. No CPU kernel's time depends on the values."""
    (port,) = one.passport["graph"]["inputs"]
    shape = [batch, *port["shape"][1:]]
    return {port["name"]: np.random.default_rng(0).random(shape, np.float32)}


def _called(runner: Runner, feeds: Feeds, calls: int) -> float:
    """Call an engine so many times and return the seconds."""
    started = time.perf_counter()
    for _ in range(calls):
        runner.infer(feeds)
    return time.perf_counter() - started


def _in_onnxruntime(one: Artifact, batch: int, threads: int) -> tuple[float, Totals]:
    """Read onnxruntime's trace, with an event for each node and call, without the first calls."""
    from exporter.targets.ort import OrtRunner

    feeds = _feeds(one, batch)
    with TemporaryDirectory(prefix="layer-times-") as folder:
        trace = Path(folder, "trace")
        with OrtRunner(one.file(artifact.MODEL), threads, trace=trace) as runner:
            _called(runner, feeds, WARM_UP_CALLS)
            seconds = _called(runner, feeds, CALLS)
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


def _in_openvino(one: Artifact, batch: int, threads: int) -> tuple[float, Totals]:
    """Ask OpenVINO for its means before and after. It averages over all calls of an engine.

    A node that only moves memory around may be missing before.
    """
    from exporter.targets import openvino

    files = (one.file(openvino.IR), one.file(openvino.WEIGHTS))
    numbers, ports, feeds = one.passport["precision"], one.passport["graph"], _feeds(one, batch)
    with openvino.OpenVinoRunner(files, numbers, ports, threads, profiled=True) as runner:
        _called(runner, feeds, WARM_UP_CALLS)
        before = runner.mean_ms_by_node()
        seconds = _called(runner, feeds, CALLS)
        after = runner.mean_ms_by_node()
    every = WARM_UP_CALLS + CALLS
    return seconds, {
        name: (op, ms * every - before.get(name, (op, 0.0))[1] * WARM_UP_CALLS)
        for name, (op, ms) in after.items()
    }


PROFILERS: dict[str, Callable[[Artifact, int, int], tuple[float, Totals]]] = {
    "ort": _in_onnxruntime,
    "openvino": _in_openvino,
}


@dataclass(frozen=True)
class Share:
    """Nodes of one kind.

    Attributes:
        what: the layers' kernel and output, or the op.
        nodes: how many.
        ms: of a call, all nodes together.
        ideal_ms: time of their multiply-adds at the machine's peak.
        weight_bytes: bytes of weights; a call reads each at least once.
    """

    what: str
    nodes: int = 0
    ms: float = 0.0
    ideal_ms: float = 0.0
    weight_bytes: int = 0

    def __add__(self, other: Share) -> Share:
        """Add two up, under the first one's name."""
        pairs = zip(astuple(self)[1:], astuple(other)[1:], strict=True)
        return Share(self.what, *(mine + theirs for mine, theirs in pairs))


def shares(
    found: Mapping[str, Any], linears: Mapping[str, Linear], batch: int, peak: float, size: int
) -> list[Share]:
    """Add up nodes of the same shape or op. The one with the most to win comes first.

    Args:
        found: what :func:`profile` returned.
        linears: of :func:`benchmarks.drift.linear_layers.linear_layers`.
        batch: images a call.
        peak: multiply-adds a second.
        size: of a weight, in bytes.
    """
    sums: dict[str, Share] = {}
    for node in found["nodes"]:
        linear = linears.get(node["linear"] or "", Linear(0, 0, node["op"], ()))
        ideal_ms = linear.multiply_adds * batch / peak * 1000
        one = Share(linear.what, 1, node["ms"], ideal_ms, linear.weights * size)
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
    cores = latency.choose_cores(threads)
    found = worker.need(*study.job(profile, path, batch, threads, cores))
    numbers, size = ("int8", 1) if one.passport["precision"] == "int8" else ("fp32", 4)
    peak = peaks[numbers]["multiply_adds_per_s"]
    rows = shares(found, linear_layers(one), batch, peak, size)
    return {
        "artifact": path.name,
        "network": one.passport["source"]["model"],
        "target": one.target,
        "precision": one.passport["precision"],
        "batch": batch,
        **found,
        "shares": [asdict(row) for row in rows],
    }


COLUMNS = ("layers", "nodes", "ms", "of the call", "of the peak", "weights, GB/s", "to win, ms")


def markdown(report: Mapping[str, Any]) -> str:
    """Render the tables of the first artifact, one a batch size, from a result file."""
    lines, first = [], report["results"][0]["artifact"]
    for result in (one for one in report["results"] if one["artifact"] == first):
        rows = _largest(result["shares"], LEAST_SHARE * result["call_ms"])
        cells = [_cells(row, result["call_ms"]) for row in rows]
        lines += [_title(result) + ":", "", study.markdown(COLUMNS, cells), ""]
    cpu = result_file.processor(report["machine"])
    where = f"{report['threads']} threads, {cpu}, {report['date'][:10]}"
    lines.append(f"By `{report['command']}`;")
    lines.append(f"{where}; all layers: `benchmarks/results/layer_times.json`.")
    return "\n".join(lines)


def _largest(rows: Sequence[Mapping[str, Any]], least_ms: float) -> list[Mapping[str, Any]]:
    """Put all rows below so many milliseconds together into the last row."""
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
        row["what"],
        str(row["nodes"] or ""),
        f"{ms:.2f}",
        f"{ms / call_ms:.0%}",
        f"{ideal / ms:.0%}" if ideal else "",
        f"{row['weight_bytes'] / ms / 1e6:.1f}" if row["weight_bytes"] else "",
        f"{ms - ideal:.2f}",
    )


@study.command("layer_times", "layer_times.json")
@study.artifacts
@study.batches
@study.threads
def main(log: Run, artefacts: tuple[Path, ...], batch: tuple[int, ...], threads: int) -> None:
    """Show where the time of ARTIFACTS goes, layer by layer. They must be for a CPU."""
    log.start(threads=threads)
    peaks = peak_probe.peaks(threads, measured_table.WORK / "peaks.json")
    results: list[dict[str, Any]] = []
    for path, size in itertools.product(artefacts, batch):
        found = measure(path, size, threads, peaks)
        results.append(found)
        rows = [_cells(row, found["call_ms"]) for row in found["shares"]]
        console.table(_title(found), COLUMNS, rows)
        log.save(peaks=peaks, results=results)


if __name__ == "__main__":
    command.run(main)
