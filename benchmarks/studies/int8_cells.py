"""One cell of the INT8 comparison: a network, a scheme, a tool; quantized, chosen and scored.

A network is prepared once (folded FP32 graph, calibration inputs, Keras' logits), and every tool
starts from those files. :func:`prepare` and :func:`run_cell` each run in a process of their own.
"""

from __future__ import annotations

import functools
import json
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from benchmarks.accuracy.measure import BATCH, Images, Logits, score
from benchmarks.accuracy.original import original_logits
from benchmarks.latency import int8_tools
from calibration.sensitivity import noise_ratio, sqnr_db
from exporter.artifact import folder as artifact
from exporter.config import Calibration, ExportConfig
from exporter.data import datasets
from exporter.errors import ExporterError
from exporter.machine.cpus import lacks_vnni
from exporter.models.preprocessing import preprocess
from exporter.progress import silent

if TYPE_CHECKING:
    import onnx

DATA = "fashion-mnist"
HELD_OUT = 1000
FP32 = "fp32"
PREPARED = "prepared.npz"

Indices = npt.NDArray[np.int64]

_load = functools.cache(datasets.load)


def prepare(folder: str, model: str, images: int, calibration_images: int) -> dict[str, Any]:
    """Export a network in FP32, choose its images, and run Keras on them.

    Args:
        folder: gets the artifact ``fp32`` and ``prepared.npz``.
        model: a zoo name with shipped weights, or a ``.keras`` file that carries its preprocessing.
        images: how many test images.
        calibration_images: how many training images.

    Returns:
        ``keras``: how the original scores.
    """
    from exporter import pipeline
    from exporter.data.training_images import choose_images
    from exporter.network import sources

    place = Path(folder)
    config = ExportConfig(model, target="onnx", output=place / FP32, data=DATA, force=True)
    place.mkdir(parents=True, exist_ok=True)
    exported = pipeline.export(config)
    tested = Images.load(sources.load(model), DATA, images, silent)
    # The exporter calibrates on the first of these, in this order.
    count = calibration_images + HELD_OUT
    chosen = choose_images(_load(DATA, "train"), tested.data, tested.size, count)
    logits = original_logits(tested, silent)
    np.savez(
        place / PREPARED,
        calibration=chosen[:calibration_images],
        held_out=chosen[calibration_images:],
        keras=logits,
        labels=tested.labels,
        source=exported.passport["source"]["sha256"],
    )
    return {"keras": score("keras", logits, tested.labels).as_json()}


def network_inputs(
    passport: artifact.Passport, split: datasets.Split, indices: Indices
) -> npt.NDArray[np.float32]:
    """Read images as a network takes them: (len(indices), height, width, channels)."""
    recorded = passport["preprocessing"]
    size = (recorded["resize"]["height"], recorded["resize"]["width"])
    return preprocess(recorded["name"], _load(DATA, split).pixels(indices, size))


def run_graph(
    graph: Path, passport: artifact.Passport, split: datasets.Split, indices: Indices, written: bool
) -> Logits:
    """Run a graph in onnxruntime and return (images, classes).

    Args:
        graph: one input, one output.
        passport: of the FP32 artifact.
        split: of the data set.
        indices: of the images.
        written: execute Q and DQ as written, with all graph optimizations off.
    """
    from exporter.targets.ort import OrtRunner

    name = passport["graph"]["inputs"][0]["name"]
    with OrtRunner(graph, as_written=written) as runner:
        parts = [
            next(iter(runner.infer({name: network_inputs(passport, split, part)}).values()))
            for part in np.split(indices, range(BATCH, len(indices), BATCH))
        ]
    return np.concatenate(parts)


def fusion(graph: Path, folded: Path) -> dict[str, int | bool]:
    """Count what onnxruntime's optimized graph computes in integers.

    Args:
        graph: quantized.
        folded: the FP32 graph it was made from, which has all convolutions and adds.
    """
    import onnx

    model = onnx.load(folded).graph
    constants = {initializer.name for initializer in model.initializer}
    adds = sum(n.op_type == "Add" and not constants.intersection(n.input) for n in model.node)
    convolutions = sum(node.op_type == "Conv" for node in model.node)
    executed = optimized_graph(graph)
    ops = Counter(node.op_type for node in executed.node)
    inside = _conversions_inside(executed)
    whole = (ops["QLinearConv"], ops["QLinearAdd"], inside) == (convolutions, adds, 0)
    return {
        "convolutions": convolutions,
        "qlinear_convolutions": ops["QLinearConv"],
        "adds": adds,
        "qlinear_adds": ops["QLinearAdd"],
        "q_and_dq_inside": inside,
        "full": whole,
    }


def _conversions_inside(graph: onnx.GraphProto) -> int:
    """Count Q and DQ, except those at the graph's inputs and outputs, also behind a reshape."""
    made_by = {name: node for node in graph.node for name in node.output}
    given, results = ({port.name for port in ports} for ports in (graph.input, graph.output))

    def source(name: str) -> str:
        node = made_by.get(name)
        moves = node is not None and node.op_type in ("Transpose", "Reshape", "Unsqueeze")
        return source(node.input[0]) if node is not None and moves else name

    return sum(
        (node.op_type == "QuantizeLinear" and source(node.input[0]) not in given)
        or (node.op_type == "DequantizeLinear" and node.output[0] not in results)
        for node in graph.node
    )


def optimized_graph(graph: Path) -> onnx.GraphProto:
    """Return the graph that onnxruntime executes."""
    import tempfile

    import onnx
    import onnxruntime

    with tempfile.TemporaryDirectory(prefix="optimized-") as folder:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.optimized_model_filepath = str(Path(folder, "optimized.onnx"))
        onnxruntime.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])
        return onnx.load(options.optimized_model_filepath).graph


def run_cell(place: str, model: str, scheme: str, tool: str) -> dict[str, Any]:
    """Quantize by each of a tool's settings, keep the best on held-out images, and score it.

    The best has the fewest label flips against the FP32 graph, on training images that it wasn't
    calibrated on. Between equals, the logits' SQNR decides.

    Returns:
        The table's figures. ``SCHEME-TOOL.onnx`` and ``.npy`` (logits) stay in the folder.
    """
    folder = Path(place)
    fp32 = artifact.read(folder / FP32)
    prepared = np.load(folder / PREPARED)
    held_out, simulated = prepared["held_out"], scheme == "tensorrt"
    expected = run_graph(fp32.file(artifact.MODEL), fp32.passport, "train", held_out, False)
    best: tuple[int, float] | None = None
    tried = []
    kept = folder / f"{scheme}-{tool}.onnx"
    started = time.perf_counter()
    make = _maker(folder, model, scheme, tool, fp32, prepared["calibration"])
    for settings in int8_tools.settings_to_try(tool, scheme, vnni=not lacks_vnni()):
        candidate = kept.with_suffix(".candidate.onnx")
        make(settings, candidate)
        got = run_graph(candidate, fp32.passport, "train", held_out, simulated)
        flips = int((got.argmax(-1) != expected.argmax(-1)).sum())
        tried.append({**settings, "flips": flips, "sqnr_db": sqnr_db(noise_ratio(expected, got))})
        rank = (flips, -tried[-1]["sqnr_db"])
        if best is None or rank < best:
            best, chosen = rank, settings
            candidate.replace(kept)
        candidate.unlink(missing_ok=True)
    seconds = time.perf_counter() - started
    indices = np.arange(len(prepared["labels"]))
    logits = run_graph(kept, fp32.passport, "test", indices, simulated)
    np.save(kept.with_suffix(".npy"), logits)
    row = score(tool, logits, prepared["labels"], prepared["keras"]).as_json()
    row.pop("flips")
    return {
        **row,
        "sqnr_db": sqnr_db(noise_ratio(prepared["keras"], logits)),
        "settings": chosen,
        "tried_on_held_out": tried,
        "simulated": simulated,
        "fusion": None if simulated else fusion(kept, fp32.file(artifact.MODEL)),
        "quantise_s": seconds,
    }


def _maker(
    folder: Path, model: str, scheme: str, tool: str, fp32: artifact.Artifact, calibration: Indices
) -> Callable[[int8_tools.Settings, Path], None]:
    if tool in int8_tools.OURS:
        return functools.partial(_ours, folder, model, scheme, calibration)
    images = network_inputs(fp32.passport, "train", calibration)
    graph = fp32.file(artifact.MODEL)
    return lambda settings, output: int8_tools.quantize(tool, settings, graph, images, output)


def _ours(
    folder: Path,
    model: str,
    scheme: str,
    calibration: Indices,
    settings: int8_tools.Settings,
    output: Path,
) -> None:
    """Export as a user would, and check that it calibrated on the same images as the others.

    Raises:
        ExporterError: it calibrated on other images.
    """
    import hashlib

    from exporter import pipeline

    exported = pipeline.export(
        ExportConfig(
            model,
            target="ort" if scheme == "cpu" else "onnx",
            output=folder / f"{scheme}-ours-{settings['calibrator']}",
            precision="int8",
            data=DATA,
            calibration=Calibration(settings["calibrator"], len(calibration)),
            force=True,
        )
    )
    recorded = exported.passport["preprocessing"]["resize"]
    pixels = _load(DATA, "train").pixels(calibration, (recorded["height"], recorded["width"]))
    content = json.loads(exported.file("calibration.json").read_text())
    if content["data"] != hashlib.sha256(pixels.tobytes()).hexdigest():
        raise ExporterError("the exporter calibrated on other images than its rivals")
    output.write_bytes(exported.file(artifact.MODEL).read_bytes())
