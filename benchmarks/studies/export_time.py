"""How long a Keras network takes to become an ONNX file: ours against ``keras.Model.export``.

Every measurement runs in its own process. The process loads the libraries and builds the network,
with the same random weights, before the clock starts. Our time covers tracing, translation, all
passes, onnx's full check and writing the file. Keras' time covers its whole ``export``, which
checks nothing. Comparing the graph with Keras and compiling for a target are not conversion and are
not counted. The order is shuffled in each round, so that a machine that warms up or slows down
favors neither side.

Run it on an idle machine: ``python -m benchmarks.studies.export_time``.
"""

from __future__ import annotations

import importlib
import itertools
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

import click
import numpy as np

from benchmarks import command
from benchmarks.latency import worker
from benchmarks.latency.bootstrap import ratio_interval, ratio_of_medians
from benchmarks.studies import study
from benchmarks.studies.study import Run
from exporter.cli import console
from exporter.models import zoo

TOOLS = ("ours", "keras")
# In the order they run; "assemble" is the rest of to_onnx.
STEPS = ("trace", "translate", "assemble", "passes", "check", "write")
# Everything that either side would import while its clock runs.
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
    """Return one model's medians, their ratio, and its interval (None for a single round)."""
    own = sorted((s for s in samples if s["model"] == model), key=lambda s: int(s["round"]))
    ours, keras = ([s["seconds"] for s in own if s["tool"] == tool] for tool in TOOLS)
    steps = [sample["steps_s"] for sample in own if sample["tool"] == "ours"]
    return {
        "ours_s": statistics.median(ours),
        "keras_s": statistics.median(keras),
        "ratio": ratio_of_medians(ours, keras),
        "ratio_interval_95": list(ratio_interval(ours, keras)) if len(ours) > 1 else None,
        "ours_steps_s": {step: statistics.median(each[step] for each in steps) for step in STEPS},
        "load_s": statistics.median(sample["load_s"] for sample in own),
    }


# One measurement, in its own process.


def measure(tool: str, model: str) -> Sample:
    """Export a zoo model once. The process must be fresh.

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
    # Keras only exports a model that was called before, so both sides get one that was.
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
    """Make biases and batch-norm statistics differ, as in a trained network. Equal ones merge."""
    rng = np.random.default_rng(0)
    for variable in model.variables:
        if len(variable.shape) == 1 and "float" in str(variable.dtype):
            variable.assign(rng.uniform(0.5, 1.5, variable.shape))


def _export(source: Any, path: Path, steps: dict[str, float]) -> None:
    from exporter import pipeline
    from exporter.artifact import serialize
    from exporter.network import frontend

    with _clocked(frontend, "_trace", steps), _clocked(frontend, "_translate", steps):
        marks = [time.perf_counter()]
        model = frontend.to_onnx(source)
        marks.append(time.perf_counter())
    pipeline.run_passes(model, "nhwc")
    marks.append(time.perf_counter())
    data = serialize.checked_bytes(model)
    marks.append(time.perf_counter())
    path.write_bytes(data)
    marks.append(time.perf_counter())
    lengths = [end - start for start, end in itertools.pairwise(marks)]
    steps |= dict(zip(("assemble", "passes", "check", "write"), lengths, strict=True))
    steps["assemble"] -= steps["trace"] + steps["translate"]


def _clocked(module: ModuleType, name: str, steps: dict[str, float]) -> Any:
    """Add up the time of a module's private function, which the frontend does not report."""
    function: Callable[..., Any] = getattr(module, name)

    def clocked(*args: Any, **kwargs: Any) -> Any:
        started = time.perf_counter()
        found = function(*args, **kwargs)
        steps[name.lstrip("_")] += time.perf_counter() - started
        return found

    return mock.patch.object(module, name, clocked)


# All measurements.


def run(models: Sequence[str], rounds: int, seed: int, say: Callable[[str], None]) -> list[Sample]:
    """Measure every model with both tools, once a round, in an order drawn for each round."""
    order = random.Random(seed)
    samples = []
    for number in range(rounds):
        turns = [(tool, model) for model in models for tool in TOOLS]
        order.shuffle(turns)
        for tool, model in turns:
            found = worker.need(*study.job(measure, tool, model))
            samples.append({"round": number, "model": model, "tool": tool, **found})
            say(f"round {number + 1}/{rounds}: {model} {tool} {found['seconds']:.2f} s")
    return samples


def show(results: dict[str, Any]) -> None:
    """Print the comparison, and where our time goes."""
    compared, parts = [], []
    for model, row in results.items():
        interval = row["ratio_interval_95"]
        shown = f"{interval[0]:.3f} to {interval[1]:.3f}" if interval else "-"
        times = (f"{row['ours_s']:.2f}", f"{row['keras_s']:.2f}", f"{row['ratio']:.3f}")
        compared.append([model, *times, shown])
        parts.append([model, *(f"{row['ours_steps_s'][step]:.2f}" for step in STEPS)])
    columns = ("model", "ours", "keras", "ours / keras", "95% interval")
    console.table("Export time, medians in seconds", columns, compared)
    console.table("Ours by step, medians in seconds", ("model", *STEPS), parts)


@study.command("export_time", "export_time.json")
@click.option(
    "--models",
    callback=study.listed(click.Choice(list(zoo.ZOO))),
    default="resnet18,resnet50,resnet152",
    help="Zoo names, separated by commas.",
)
@click.option("--rounds", type=study.COUNT, default=5)
@click.option("--seed", default=0, help="Of the order.")
def main(log: Run, models: tuple[str, ...], rounds: int, seed: int) -> None:
    """Time our export against keras.Model.export(format="onnx")."""
    log.start(seed=seed, rounds=rounds, weights="random, batch-norm statistics too")
    samples = run(models, rounds, seed, log.say)
    log.save(results={model: summarize(samples, model) for model in models}, samples=samples)
    show(log.report["results"])


if __name__ == "__main__":
    command.run(main)
