"""How much faster INT8 is than FP32 on this CPU, and than ``quantize_static``'s graph.

Takes the graphs that ``benchmarks.int8_comparison`` left in its work folder. Each engine runs in
a fresh process, one at a time, in blocks whose order is drawn anew each round, so that a machine
that warms up or slows down favours none; the interval comes from whole rounds.

Run it on an idle machine: ``python -m benchmarks.int8_latency``.
"""

from __future__ import annotations

import os
import random
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from benchmarks import result_file
from benchmarks.bootstrap import ratio_interval, ratio_of_medians
from benchmarks.latency_worker import Block, time_apart

RESULTS = Path(__file__).parent / "results" / "int8_latency.json"
OURS = "int8"
# Paths below WORK/NETWORK, as the comparison leaves them.
ENGINES = {
    "fp32": "fp32/model.onnx",
    OURS: "cpu-ours-mse.onnx",
    "quantize_static": "cpu-quantize_static.onnx",
}

Sample = dict[str, Any]


def run(
    blocks: Mapping[str, Block], rounds: int, seed: int, say: Callable[[str], None]
) -> list[Sample]:
    """Time every engine once a round, in an order drawn for each; notes the load before each."""
    order = random.Random(seed)
    samples = []
    for number in range(rounds):
        turns = list(blocks)
        order.shuffle(turns)
        for engine in turns:
            load = os.getloadavg()[0]
            sample = {"round": number, "engine": engine, "load_average_1min": load}
            sample |= {"batch": blocks[engine].batch, **time_apart(blocks[engine])}
            say(f"round {number + 1}/{rounds}: {engine} {sample['median_ms']:.3f} ms")
            samples.append(sample)
    return samples


def summarize(samples: Sequence[Sample]) -> dict[str, Any]:
    """Return each engine's median and how many times as fast ours is, with a 95% interval.

    Args:
        samples: of one network and batch size, at least two rounds.
    """
    times: dict[str, list[float]] = {}
    for sample in sorted(samples, key=lambda sample: int(sample["round"])):
        times.setdefault(sample["engine"], []).append(float(sample["median_ms"]))
    ours = times[OURS]
    return {
        "median_ms": {engine: statistics.median(found) for engine, found in times.items()},
        "speedup_of_ours_over": {
            engine: {
                "ratio": ratio_of_medians(found, ours),
                "interval_95": list(ratio_interval(found, ours)),
            }
            for engine, found in times.items()
            if engine != OURS
        },
        "largest_load_average_1min": max(float(s["load_average_1min"]) for s in samples),
    }


def table(results: Sequence[Mapping[str, Any]]) -> Table:
    """Show a line for each network and batch size."""
    shown = Table(title="Milliseconds a run, medians", title_justify="left")
    shown.add_column("network")
    others = [engine for engine in ENGINES if engine != OURS]
    for column in ("batch", *ENGINES, *(f"{engine} / {OURS} (95%)" for engine in others)):
        shown.add_column(column, justify="right")
    for row in results:
        ratios = (row["speedup_of_ours_over"][engine] for engine in others)
        shown.add_row(
            row["network"],
            str(row["batch"]),
            *(f"{row['median_ms'][engine]:.3f}" for engine in ENGINES),
            *(
                f"{r['ratio']:.2f} ({r['interval_95'][0]:.2f} to {r['interval_95'][1]:.2f})"
                for r in ratios
            ),
        )
    return shown


@click.command()
@click.option("--models", default="resnet18", show_default=True, help="Comma between.")
@click.option(
    "--work",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    default=Path("build/int8_comparison"),
    show_default=True,
    help="Folder that benchmarks.int8_comparison worked in.",
)
@click.option("--batch", default="1,32", show_default=True, help="Images a run, comma between.")
@click.option("--threads", type=click.IntRange(min=1), default=2, show_default=True)
@click.option("--rounds", type=click.IntRange(min=5), default=7, show_default=True)
@click.option("--seconds", type=float, default=2.0, show_default=True, help="Of each block.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the order.")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    default=RESULTS,
    help="JSON file; default: benchmarks/results/int8_latency.json.",
)
def main(
    models: str,
    work: Path,
    batch: str,
    threads: int,
    rounds: int,
    seconds: float,
    seed: int,
    output: Path,
) -> None:
    """Time the FP32 graph, our INT8 graph and quantize_static's."""
    from exporter.doctor import lacks_vnni

    graphs = {
        (name, engine): work / name / file
        for name in models.split(",")
        for engine, file in ENGINES.items()
    }
    if missing := [str(path) for path in graphs.values() if not path.is_file()]:
        hint = "make them with: python -m benchmarks.int8_comparison"
        raise click.ClickException(f"no such graph: {', '.join(missing)}\n{hint}")
    report: dict[str, Any] = {
        **result_file.header("int8_latency"),
        "machine": {**result_file.machine(), "vnni": not lacks_vnni()},
        "threads": threads,
        "rounds": rounds,
        "seconds": seconds,
        "results": [],
        "samples": [],
    }
    say = Console(stderr=True, highlight=False)
    for name in models.split(","):
        for size in map(int, batch.split(",")):
            blocks = {e: Block(graphs[name, e], size, threads, seconds) for e in ENGINES}
            samples = run(blocks, rounds, seed, say.print)
            report["results"].append({"network": name, "batch": size, **summarize(samples)})
            report["samples"] += [{"network": name, **sample} for sample in samples]
    output.parent.mkdir(parents=True, exist_ok=True)
    result_file.write(report, output)
    console = Console()
    console.print(table(report["results"]))
    console.print(f"all samples: {output}", highlight=False, soft_wrap=True)


if __name__ == "__main__":
    main()
