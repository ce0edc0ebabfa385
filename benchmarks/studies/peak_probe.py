"""How many multiply-adds a second this machine can do at most, in float32 and in INT8.

This is a probe, not a data sheet. Graphs of nothing but large layers (a chain of 3x3 convolutions
that stay in the cache, a chain of square matrix products) run in every installed CPU engine. The
fastest call of the fastest engine is the peak. So no real network reaches 100%, and we don't know
a peak that no library reaches.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from benchmarks import result_file
from benchmarks.latency import bench as latency
from benchmarks.latency import worker
from benchmarks.studies import study
from exporter.errors import ExporterError

if TYPE_CHECKING:
    import onnx

    from exporter.network.runner import Runner

Numbers = Literal["fp32", "int8"]
Peaks = dict[str, dict[str, Any]]
"""By kind of numbers: ``multiply_adds_per_s``, the ``probe`` that reached it, ``all`` of them."""
_LIMIT_S = 120.0


@dataclass(frozen=True)
class Shape:
    """A chain of equal layers.

    Attributes:
        op: Conv or MatMul.
        data: shape of every layer's input and output.
        weight: shape of each layer's weight.
        layers: how many; enough that the time to quantize the first input does not matter.
    """

    op: Literal["Conv", "MatMul"]
    data: tuple[int, ...]
    weight: tuple[int, ...]
    layers: int

    @property
    def multiply_adds(self) -> int:
        """Multiply-adds of one call."""
        places = np.prod(self.data) // self.weight[0]  # either op: inputs are the first axis
        return int(places * np.prod(self.weight)) * self.layers


SHAPES: dict[str, Shape] = {
    "3x3 convolutions, 256 channels, 24x24": Shape("Conv", (4, 256, 24, 24), (256, 256, 3, 3), 4),
    "3x3 convolutions, 128 channels, 12x12": Shape("Conv", (8, 128, 12, 12), (128, 128, 3, 3), 16),
    "matrix products of 1024": Shape("MatMul", (1024, 1024), (1024, 1024), 4),
}
ENGINES = ("ort", "openvino")


def peaks(threads: int, file: Path) -> Peaks:
    """Probe this machine; return the higher of these peaks and the kept ones, and keep those.

    A busy moment lowers a probe, so the highest of several runs counts.

    Args:
        threads: of each engine.
        file: where the peaks of earlier runs on this machine are.
    """
    kept: Peaks = json.loads(file.read_text()) if file.is_file() else {}
    best = {
        name: max(peak, kept.get(name, peak), key=lambda one: float(one["multiply_adds_per_s"]))
        for name, peak in probe_all(threads, latency.choose_cores(threads)).items()
    }
    result_file.write(best, file)
    return best


def probe_all(threads: int, cores: Sequence[int], seconds: float = 1.5) -> Peaks:
    """Run every probe, one process after another.

    Raises:
        ExporterError: no probe of one kind of numbers ran.
    """
    found = {}
    for numbers in ("fp32", "int8"):
        rates: dict[str, float] = {}
        for engine in ENGINES:
            for shape in SHAPES:
                job = study.job(measure, engine, numbers, shape, threads, cores, seconds)
                answer = worker.ask(*job, _LIMIT_S)
                if "error" not in answer:
                    rates[f"{shape}, {engine}"] = answer["multiply_adds_per_s"]
        if not rates:
            raise ExporterError(f"no {numbers} probe runs here", hint="exporter doctor")
        best = max(rates, key=rates.__getitem__)
        found[numbers] = {"multiply_adds_per_s": rates[best], "probe": best, "all": rates}
    return found


def measure(
    engine: str, numbers: Numbers, name: str, threads: int, cores: Sequence[int], seconds: float
) -> dict[str, Any]:
    """Run one probe. The process must be fresh.

    Args:
        engine: of :data:`ENGINES`.
        numbers: that it multiplies.
        name: a key of :data:`SHAPES`.
        threads: of the engine.
        cores: to pin the process to; empty if it can't be pinned.
        seconds: how long to measure.
    """
    if cores:
        os.sched_setaffinity(0, cores)
    shape = SHAPES[name]
    data = np.random.default_rng(0).random(shape.data, np.float32)
    with TemporaryDirectory(prefix="probe-") as folder:
        model = graph(shape, numbers)
        runner = _OPENERS[engine](model, numbers, threads, Path(folder))
        with runner:
            runner.infer({"x": data})
            best = fastest(lambda: runner.infer({"x": data}), seconds)
    return {"multiply_adds_per_s": shape.multiply_adds / best}


def fastest(call: Callable[[], object], seconds: float) -> float:
    """Return the shortest of all calls in so many seconds. Noise only ever adds time."""
    best = float("inf")
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        started = time.perf_counter()
        call()
        best = min(best, time.perf_counter() - started)
    return best


def graph(shape: Shape, numbers: Numbers) -> onnx.ModelProto:
    """Build the chain from ``x`` to ``y``; for INT8 with Q and DQ of scheme ``cpu`` around each."""
    from onnx import TensorProto, checker, helper, numpy_helper

    rng = np.random.default_rng(0)
    int8 = numbers == "int8"
    constants: dict[str, Any] = {}
    if int8:
        constants = {"scale": np.float32(0.02), "zero": np.uint8(0)}
        constants |= {"w_scale": np.float32(0.01), "w_zero": np.int8(0)}
        constants["w"] = rng.integers(-63, 64, shape.weight).astype(np.int8)
    else:
        fan_in = np.prod(shape.weight[1:])
        constants["w"] = (rng.standard_normal(shape.weight) / np.sqrt(fan_in)).astype("f4")
    same: dict[str, Any] = {"pads": [1, 1, 1, 1]} if shape.op == "Conv" else {}
    nodes: list[onnx.NodeProto] = []

    def add(op: str, inputs: list[str], output: str = "", **attributes: Any) -> str:
        name = output or f"v{len(nodes)}"
        nodes.append(helper.make_node(op, inputs, [name], **attributes))
        return name

    def rounded(value: str) -> str:
        quantized = add("QuantizeLinear", [value, "scale", "zero"]) if int8 else value
        return add("DequantizeLinear", [quantized, "scale", "zero"]) if int8 else value

    weight = add("DequantizeLinear", ["w", "w_scale", "w_zero"]) if int8 else "w"
    value = "x"
    for _ in range(shape.layers):
        value = add(shape.op, [rounded(value), weight], **same)
    add("Identity", [rounded(value)], "y")
    ports = [helper.make_tensor_value_info(n, TensorProto.FLOAT, shape.data) for n in ("x", "y")]
    weights = [numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items()]
    built = helper.make_model(
        helper.make_graph(nodes, "probe", ports[:1], ports[1:], weights),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,
    )
    checker.check_model(built, full_check=True)
    return built


def _in_onnxruntime(model: onnx.ModelProto, numbers: Numbers, threads: int, _: Path) -> Runner:
    from exporter.targets.ort import OrtRunner

    return OrtRunner(model.SerializeToString(), threads)


def _in_openvino(model: onnx.ModelProto, numbers: Numbers, threads: int, folder: Path) -> Runner:
    from exporter.artifact.folder import MODEL
    from exporter.config import Batch, BuildOptions
    from exporter.targets import Build, openvino

    (folder / MODEL).write_bytes(model.SerializeToString())
    openvino.compile(folder, Build(Batch(), numbers, BuildOptions()))
    shape = [one.dim_value for one in model.graph.input[0].type.tensor_type.shape.dim]
    ports = {"inputs": [{"name": "x", "shape": shape}], "outputs": [{"name": "y"}]}
    files = (folder / openvino.IR, folder / openvino.WEIGHTS)
    return openvino.OpenVinoRunner(files, numbers, ports, threads)


_OPENERS = {"ort": _in_onnxruntime, "openvino": _in_openvino}
