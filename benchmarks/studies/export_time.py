"""How long a Keras network takes to become an ONNX file: ours against ``keras.Model.export``.

Every measurement has a process of its own, which loads the libraries and builds the network
(with the same random weights) before its clock starts. Ours counts tracing, translation, all
passes, onnx's full check and writing the file; Keras' counts its whole ``export``, which
checks nothing. Comparing the graph with Keras and compiling for a target are not conversion
and are not counted. The order is shuffled in each round, so that a machine that warms up or
slows down favors neither side.

Run it on an idle machine: ``python -m benchmarks.studies.export_time``.
"""

from __future__ import annotations

import functools
import importlib
import json
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import click
import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks import command, result_file
from benchmarks.latency import worker
from benchmarks.latency.bootstrap import ratio_interval, ratio_of_medians
from exporter.errors import WrongUse
from exporter.models import zoo

TOOLS = ("ours", "keras")
# In the order of the way through; "assemble" is what to_onnx does besides the two before it.
STEPS = ("trace", "translate", "assemble", "passes", "check", "write")
RESULTS = Path(__file__).parents[1] / "results" / "export_time.json"
# All that either side would import while its clock runs.
_LIBRARIES = (
    "onnx",
    "onnx.reference.ops._op_list",  # 180 files, which the reference evaluator loads on first use
    "onnx_ir.passes.common",
    "tensorflow.python.framework.convert_to_constants",
    "tensorflow.saved_model.experimental",
    "tf2onnx.convert",
    "tf2onnx.tf_loader",
    "tf2onnx.tfonnx",
    "exporter.network.frontend",
    "exporter.passes.fold_batch_norm",
    "exporter.passes.fold_constants",
    "exporter.passes.nchw_inputs",
    "exporter.passes.sink_transposes",
    "exporter.pipeline",
)

Sample = dict[str, Any]


def summarize(samples: Sequence[Sample], model: str) -> dict[str, Any]:
    """Return medians, their ratio and its interval (None for a single round) of one model."""
    of = {
        tool: sorted(
            (s for s in samples if s["model"] == model and s["tool"] == tool),
            key=lambda sample: int(sample["round"]),
        )
        for tool in TOOLS
    }
    ours, keras = ([float(s["seconds"]) for s in of[tool]] for tool in TOOLS)
    return {
        "ours_s": statistics.median(ours),
        "keras_s": statistics.median(keras),
        "ratio": ratio_of_medians(ours, keras),
        "ratio_interval_95": list(ratio_interval(ours, keras)) if len(ours) > 1 else None,
        "ours_steps_s": {
            step: statistics.median(s["steps_s"][step] for s in of["ours"]) for step in STEPS
        },
        "load_s": statistics.median(s["load_s"] for tool in TOOLS for s in of[tool]),
    }


# One measurement, in its own process.


def measure(tool: str, model: str) -> Sample:
    """Export a zoo model once in this process, which must be fresh.

    Returns:
        ``seconds`` of the export, ``load_s`` of building the network before it, ``steps_s``
        of ours, ``bytes`` of the file.
    """
    from exporter.network import sources
    from exporter.network.keras_env import load_keras

    load_keras()
    for name in _LIBRARIES:
        importlib.import_module(name)
    started = time.perf_counter()
    source = sources.load(model, weights=sources.RANDOM)
    _scatter_vectors(source.model)
    # Keras exports only a model that has been called; so both sides get one that has.
    source.call((np.zeros((1, *source.inputs[0].shape[1:]), np.float32),))
    load_s = time.perf_counter() - started
    with tempfile.TemporaryDirectory(prefix="export-time-") as folder:
        path = Path(folder, "model.onnx")
        steps = dict.fromkeys(STEPS, 0.0) if tool == "ours" else {}
        started = time.perf_counter()
        if tool == "ours":
            _export(source, path, steps)
        else:
            source.model.export(str(path), format="onnx", verbose=False)
        seconds = time.perf_counter() - started
        size = path.stat().st_size
    return {"seconds": seconds, "load_s": load_s, "steps_s": steps, "bytes": size}


def _scatter_vectors(model: Any) -> None:
    """Make biases and batch-norm statistics differ, as trained ones do: equal ones get merged."""
    rng = np.random.default_rng(0)
    for variable in model.variables:
        if len(variable.shape) == 1 and "float" in str(variable.dtype):
            variable.assign(rng.uniform(0.5, 1.5, variable.shape))


def _export(source: Any, path: Path, steps: dict[str, float]) -> None:
    from exporter import pipeline
    from exporter.artifact import serialize
    from exporter.network import frontend

    with _clocked(frontend, "_trace", steps), _clocked(frontend, "_translate", steps):
        started = time.perf_counter()
        model = frontend.to_onnx(source)
        whole = time.perf_counter() - started
    steps["assemble"] = whole - steps["trace"] - steps["translate"]
    started = time.perf_counter()
    pipeline.run_passes(model, "nhwc")
    passed = time.perf_counter()
    data = serialize.checked_bytes(model)
    checked = time.perf_counter()
    path.write_bytes(data)
    written = time.perf_counter()
    steps["passes"] = passed - started
    steps["check"] = checked - passed
    steps["write"] = written - checked


@contextmanager
def _clocked(module: ModuleType, name: str, steps: dict[str, float]) -> Iterator[None]:
    """Add the time of a module's inner function, which the frontend has no reason to report."""
    function: Callable[..., Any] = getattr(module, name)

    @functools.wraps(function)
    def clocked(*args: Any, **kwargs: Any) -> Any:
        started = time.perf_counter()
        try:
            return function(*args, **kwargs)
        finally:
            steps[name.lstrip("_")] += time.perf_counter() - started

    setattr(module, name, clocked)
    try:
        yield
    finally:
        setattr(module, name, function)


# All measurements.


def measure_apart(tool: str, model: str) -> Sample:
    """Run :func:`measure` in a fresh process."""
    return worker.need("benchmarks.studies.export_time:answer", json.dumps([tool, model]))


def answer(job: str) -> worker.Answer:
    """Measure the tool and the model of a job, in a process of its own."""
    return measure(*json.loads(job))


def run(models: Sequence[str], rounds: int, seed: int, say: Callable[[str], None]) -> list[Sample]:
    """Measure every model with both tools, each once a round, in an order drawn per round."""
    order = random.Random(seed)
    samples = []
    for number in range(rounds):
        turns = [(tool, model) for model in models for tool in TOOLS]
        order.shuffle(turns)
        for tool, model in turns:
            sample = {"round": number, "model": model, "tool": tool, **measure_apart(tool, model)}
            say(f"round {number + 1}/{rounds}: {model} {tool} {sample['seconds']:.2f} s")
            samples.append(sample)
    return samples


def tables(results: Mapping[str, Mapping[str, Any]]) -> list[Table]:
    """Show the comparison, and where our seconds go."""
    compared = Table(title="Export time, medians in seconds", title_justify="left")
    parts = Table(title="Ours by step, medians in seconds", title_justify="left")
    for table, columns in (
        (compared, ("ours", "keras", "ours / keras", "95% interval")),
        (parts, STEPS),
    ):
        table.add_column("model")
        for column in columns:
            table.add_column(column, justify="right")
    for model, row in results.items():
        interval = row["ratio_interval_95"]
        compared.add_row(
            model,
            f"{row['ours_s']:.2f}",
            f"{row['keras_s']:.2f}",
            f"{row['ratio']:.3f}",
            f"{interval[0]:.3f} to {interval[1]:.3f}" if interval else "-",
        )
        parts.add_row(model, *(f"{row['ours_steps_s'][step]:.2f}" for step in STEPS))
    return [compared, parts]


def _zoo_names(_: click.Context, __: click.Parameter, text: str) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",")))
    try:
        for name in names:
            zoo.lookup(name)
    except WrongUse as error:
        raise click.BadParameter(str(error)) from error
    return names


@click.command()
@click.option(
    "--models",
    default="resnet18,resnet50,resnet152",
    show_default=True,
    callback=_zoo_names,
    help="Zoo names, comma between.",
)
@click.option("--rounds", type=click.IntRange(min=1), default=5, show_default=True)
@click.option("--seed", type=int, default=0, show_default=True, help="Of the order.")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    default=RESULTS,
    help="JSON file; default: benchmarks/results/export_time.json.",
)
def main(models: tuple[str, ...], rounds: int, seed: int, output: Path) -> None:
    """Time our export against keras.Model.export(format="onnx")."""
    report: dict[str, Any] = {
        **result_file.header("studies.export_time"),
        "seed": seed,
        "rounds": rounds,
        "weights": "random, batch-norm statistics too",
    }
    output.parent.mkdir(parents=True, exist_ok=True)
    progress = Console(stderr=True, highlight=False)
    samples = run(models, rounds, seed, progress.print)
    report["results"] = {model: summarize(samples, model) for model in models}
    report["samples"] = samples
    result_file.write(report, output)
    console = Console()
    for table in tables(report["results"]):
        console.print(table)
    console.print(f"all samples: {output}", highlight=False, soft_wrap=True)


if __name__ == "__main__":
    command.run(main)
