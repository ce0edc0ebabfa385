"""How many multiply-adds a second this machine can do at most, in float32 and in INT8.

A probe, not a data sheet: graphs with nothing but large layers (a chain of 3x3 convolutions that
stay in the cache, a chain of square matrix products) run in every CPU engine that is here, and
the fastest call of the fastest of them is the peak. So a network can't honestly be at 100%, and
a peak that no library reaches is not known here.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from benchmarks.latency import worker
from exporter.errors import ExporterError

if TYPE_CHECKING:
    import onnx

    from exporter.network.runner import Runner

Numbers = Literal["fp32", "int8"]
_LIMIT_S = 120.0


@dataclass(frozen=True)
class Shape:
    """A chain of equal layers.

    Attributes:
        op: Conv or MatMul.
        data: shape of what goes through all of them.
        weight: shape of each one's weight.
        layers: how many; enough that quantizing the first input does not count.
    """

    op: Literal["Conv", "MatMul"]
    data: tuple[int, ...]
    weight: tuple[int, ...]
    layers: int

    @property
    def multiply_adds(self) -> int:
        """Of one call."""
        places = np.prod(self.data) // self.weight[0]  # either op: inputs are the first axis
        return int(places * np.prod(self.weight)) * self.layers


SHAPES: dict[str, Shape] = {
    "3x3 convolutions, 256 channels, 24x24": Shape("Conv", (4, 256, 24, 24), (256, 256, 3, 3), 4),
    "3x3 convolutions, 128 channels, 12x12": Shape("Conv", (8, 128, 12, 12), (128, 128, 3, 3), 16),
    "matrix products of 1024": Shape("MatMul", (1024, 1024), (1024, 1024), 4),
}
ENGINES = ("ort", "openvino")


@dataclass(frozen=True)
class Probe:
    """One shape in one engine.

    Attributes:
        engine: of :data:`ENGINES`.
        numbers: that it multiplies.
        shape: a key of :data:`SHAPES`.
        threads: of the engine.
        cores: that the process is pinned to; empty where it can't be.
        seconds: how long to measure.
    """

    engine: str
    numbers: Numbers
    shape: str
    threads: int
    cores: tuple[int, ...]
    seconds: float = 1.5


def probe_all(threads: int, cores: Sequence[int], seconds: float = 1.5) -> dict[str, Any]:
    """Run every probe, one process after another.

    Returns:
        By numbers: ``multiply_adds_per_s``, the ``probe`` that reached it, and ``all`` of them.

    Raises:
        ExporterError: no probe of one kind ran.
    """
    found = {}
    for numbers in ("fp32", "int8"):
        rates: dict[str, float] = {}
        for engine in ENGINES:
            for shape in SHAPES:
                probe = Probe(engine, numbers, shape, threads, tuple(cores), seconds)
                job = json.dumps(asdict(probe))
                found_here = worker.ask("benchmarks.studies.peak_probe:answer", job, _LIMIT_S)
                if "error" not in found_here:
                    rates[f"{shape}, {engine}"] = found_here["multiply_adds_per_s"]
        if not rates:
            raise ExporterError(f"no {numbers} probe runs here", hint="exporter doctor")
        best = max(rates, key=rates.__getitem__)
        found[numbers] = {"multiply_adds_per_s": rates[best], "probe": best, "all": rates}
    return found


def measure(probe: Probe) -> dict[str, Any]:
    """Run one probe in this process, which must be fresh."""
    if probe.cores:
        os.sched_setaffinity(0, probe.cores)
    shape = SHAPES[probe.shape]
    data = np.random.default_rng(0).random(shape.data, np.float32)
    with TemporaryDirectory(prefix="probe-") as folder:
        runner = _OPENERS[probe.engine](graph(shape, probe.numbers), Path(folder), probe)
        with runner:
            runner.infer({"x": data})
            best = fastest(lambda: runner.infer({"x": data}), probe.seconds)
    return {"multiply_adds_per_s": shape.multiply_adds / best}


def fastest(call: Callable[[], object], seconds: float) -> float:
    """Return the shortest of all calls in so many seconds: noise only ever adds."""
    best = float("inf")
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        started = time.perf_counter()
        call()
        best = min(best, time.perf_counter() - started)
    return best


def graph(shape: Shape, numbers: Numbers) -> onnx.ModelProto:
    """Build the chain from ``x`` to ``y``, for INT8 with Q/DQ of the scheme ``cpu`` around each."""
    from onnx import TensorProto, checker, helper, numpy_helper

    rng = np.random.default_rng(0)
    int8 = numbers == "int8"
    constants = {
        "scale": np.float32(0.02),
        "zero": np.uint8(0),
        "w_scale": np.float32(0.01),
        "w_zero": np.int8(0),
        "w": rng.integers(-63, 64, shape.weight).astype(np.int8)
        if int8
        else (rng.standard_normal(shape.weight) / np.sqrt(np.prod(shape.weight[1:]))).astype("f4"),
    }
    same = {"pads": [1, 1, 1, 1]} if shape.op == "Conv" else {}
    nodes: list[onnx.NodeProto] = []
    value = "x"

    def add(op: str, inputs: list[str], **attributes: Any) -> str:
        output = f"v{len(nodes)}"
        nodes.append(helper.make_node(op, inputs, [output], **attributes))
        return output

    weight = add("DequantizeLinear", ["w", "w_scale", "w_zero"]) if int8 else "w"
    for _ in range(shape.layers):
        if int8:
            value = add("QuantizeLinear", [value, "scale", "zero"])
            value = add("DequantizeLinear", [value, "scale", "zero"])
        value = add(shape.op, [value, weight], **same)
    if int8:
        value = add("QuantizeLinear", [value, "scale", "zero"])
        value = add("DequantizeLinear", [value, "scale", "zero"])
    add("Identity", [value])
    nodes[-1].output[0] = "y"
    ports = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape.data) for name in ("x", "y")
    ]
    used = {name for node in nodes for name in node.input}
    weights = [numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items() if k in used]
    built = helper.make_model(
        helper.make_graph(nodes, "probe", ports[:1], ports[1:], weights),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,
    )
    checker.check_model(built, full_check=True)
    return built


def _in_onnxruntime(model: onnx.ModelProto, _: Path, probe: Probe) -> Runner:
    from exporter.targets.ort import OrtRunner

    return OrtRunner(model.SerializeToString(), probe.threads)


def _in_openvino(model: onnx.ModelProto, folder: Path, probe: Probe) -> Runner:
    from exporter.artifact.folder import MODEL
    from exporter.config import Batch, BuildOptions
    from exporter.targets import Build, openvino

    (folder / MODEL).write_bytes(model.SerializeToString())
    openvino.compile(folder, Build(Batch(), probe.numbers, BuildOptions()))
    shape = list(SHAPES[probe.shape].data)
    ports = {"inputs": [{"name": "x", "shape": shape}], "outputs": [{"name": "y"}]}
    files = (folder / openvino.IR, folder / openvino.WEIGHTS)
    return openvino.OpenVinoRunner(files, probe.numbers, ports, probe.threads)


_OPENERS: dict[str, Callable[[onnx.ModelProto, Path, Probe], Runner]] = {
    "ort": _in_onnxruntime,
    "openvino": _in_openvino,
}


def answer(job: str) -> worker.Answer:
    """Run the probe of a job, in a process of its own."""
    given = json.loads(job)
    return measure(Probe(**{**given, "cores": tuple(given["cores"])}))
