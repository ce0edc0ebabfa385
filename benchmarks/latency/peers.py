"""Make other tools' INT8 of the same network, to time it in the same run as ours.

Each tool gets the original's folded FP32 graph (TFLite gets the original itself), the training
images that our own calibration begins with, and settings that favor its speed. It runs in its own
process, so that a converter that fails or crashes becomes a row with an error.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy.typing as npt

from benchmarks.latency import worker
from exporter.artifact import folder as artifact
from exporter.artifact.folder import Artifact
from exporter.config import NO_CODE, Trust
from exporter.data import datasets
from exporter.errors import Missing
from exporter.machine.cpus import lacks_vnni
from exporter.machine.install import pip_line
from exporter.progress import Progress

if TYPE_CHECKING:
    from exporter.network.sources import Source

Images = npt.NDArray[Any]
Settings = dict[str, Any]

DESCRIPTION = "peer.json"
CALIBRATION_IMAGES = 512
# Limit for one tool. NNCF and TFLite calibrate image by image.
_LIMIT_S = 1800.0


@dataclass(frozen=True)
class Peer:
    """Another tool that makes INT8 models.

    Attributes:
        title: its name in sentences.
        needs: the modules that it imports.
        file: the file that it writes for its engine.
        target: our target with the same engine; None if there is none.
        make: writes ``file`` from the original and calibration images; returns its settings.
    """

    title: str
    needs: tuple[str, ...]
    file: str
    target: str | None
    make: Callable[[Source, Images, Path], Settings]


@dataclass(frozen=True)
class Original:
    """The Keras model's path, if it isn't where the passport says, and the code that may run."""

    place: str | None = None
    trust: Trust = NO_CODE

    @classmethod
    def from_json(cls, given: dict[str, Any]) -> Original:
        """Read the result of ``dataclasses.asdict`` after JSON."""
        trust = given["trust"]
        return cls(given["place"], Trust(trust["unsafe"], tuple(trust["imports"])))


AS_RECORDED = Original()


@dataclass(frozen=True)
class Order:
    """An order to make one model.

    Attributes:
        name: a key of :data:`PEERS`.
        artefact: artifact whose passport names the network and its preprocessing.
        folder: where to write the model and :data:`DESCRIPTION`.
        data: data set whose training images to calibrate on.
        original: the Keras model.
    """

    name: str
    artefact: Path
    folder: Path
    data: str
    original: Original


def check(names: Sequence[str]) -> None:
    """Check that the peers' packages are installed, before anything is timed.

    Raises:
        Missing: a package is not installed. The message names it.
    """
    lacking = {
        module
        for name in names
        for module in PEERS[name].needs
        if importlib.util.find_spec(module) is None
    }
    if lacking:
        wanted = ", ".join(name for name in names if lacking.intersection(PEERS[name].needs))
        raise Missing(f"{wanted} needs {', '.join(sorted(lacking))}", hint=pip_line("compare"))


def make_all(
    names: Sequence[str],
    one: Artifact,
    folder: Path,
    data: str,
    original: Original,
    progress: Progress,
) -> dict[str, worker.Answer]:
    """Let every peer make its model in ``folder/NAME``, one after another.

    Returns:
        The answer of each, by name; with ``error`` and ``hint`` if it made no model.
    """
    answers = {}
    for done, name in enumerate(names):
        progress("peers", done, len(names), f"{name} quantizes")
        (folder / name).mkdir()
        order = Order(name, one.path.absolute(), folder / name, data, original)
        job = json.dumps(asdict(order), default=str)
        answers[name] = worker.ask("benchmarks.latency.peers:answer", job, _LIMIT_S)
    progress("peers", len(names), len(names), "done")
    return answers


def make(order: Order) -> worker.Answer:
    """Make one model in this process, and describe it in :data:`DESCRIPTION`.

    Returns:
        The description: ``inputs`` and ``outputs`` as in a passport, and ``settings``.

    Raises:
        ExporterError: there is no original, or the tool can't convert it.
    """
    from benchmarks.accuracy.measure import load_original

    where = order.original
    source = load_original([artifact.read(order.artefact)], where.place, where.trust)
    images = calibration_inputs(source, order.data)
    settings = PEERS[order.name].make(source, images, order.folder)
    (port,), (output,) = source.inputs, source.outputs
    description = {
        "inputs": [{"name": port.name, "shape": ["N", *port.shape[1:]], "dtype": port.dtype}],
        "outputs": [{"name": output.name}],
        "settings": {**settings, "calibration_images": len(images)},
    }
    (order.folder / DESCRIPTION).write_text(json.dumps(description))
    return description


def calibration_inputs(source: Source, spec: str) -> Images:
    """Return the first training images that an export calibrates on, preprocessed.

    Returns:
        (n, height, width, channels), n at most :data:`CALIBRATION_IMAGES`.
    """
    from exporter.data.feeds import image_size, network_input
    from exporter.data.training_images import choose_images

    train, test = datasets.load(spec, "train"), datasets.load(spec, "test")
    size = image_size(source, train)
    chosen = choose_images(train, test, size, CALIBRATION_IMAGES, least=1)
    return network_input(source, train.pixels(chosen, size))[source.inputs[0].name]


def folded_graph(source: Source, file: Path) -> Path:
    """Write the FP32 graph that every export starts from: batch norms folded, NHWC in and out."""
    from exporter import pipeline
    from exporter.artifact import serialize
    from exporter.network import frontend

    model = frontend.to_onnx(source)
    pipeline.run_passes(model, "nhwc")
    file.write_bytes(serialize.checked_bytes(model))
    return file


def file_bytes(name: str, folder: Path) -> int:
    """Return the size of a peer's model, including the separate weights of OpenVINO's IR."""
    model = folder / PEERS[name].file
    return sum(file.stat().st_size for file in folder.glob(f"{model.stem}.*"))


def _quantize_static(source: Source, images: Images, folder: Path) -> Settings:
    from benchmarks.latency import int8_tools

    graph = folded_graph(source, folder / "fp32.onnx")
    settings = int8_tools.fastest_settings("quantize_static", vnni=not lacks_vnni())
    int8_tools.quantize("quantize_static", settings, graph, images, folder / "model.onnx")
    return settings


def _nncf(source: Source, images: Images, folder: Path) -> Settings:
    from benchmarks.latency import int8_tools

    graph = folded_graph(source, folder / "fp32.onnx")
    settings = int8_tools.fastest_settings("nncf", vnni=not lacks_vnni())
    int8_tools.quantize("nncf", settings, graph, images, folder / "model.xml")
    return settings


def _tflite(source: Source, images: Images, folder: Path) -> Settings:
    from benchmarks.latency import tflite_int8

    tflite_int8.convert(source, images, folder / "model.tflite")
    return {"ops": "TFLITE_BUILTINS_INT8", "delegate": "XNNPACK (the interpreter's default)"}


_EXPORT = ("tensorflow", "tf2onnx", "onnxruntime")
PEERS: dict[str, Peer] = {
    "quantize-static": Peer(
        "quantize_static's INT8 in onnxruntime", _EXPORT, "model.onnx", "ort", _quantize_static
    ),
    "nncf": Peer(
        "NNCF's INT8 in OpenVINO", (*_EXPORT, "openvino", "nncf"), "model.xml", "openvino", _nncf
    ),
    "tflite": Peer("TFLite's INT8", ("tensorflow",), "model.tflite", None, _tflite),
}


def answer(job: str) -> worker.Answer:
    """Make the model of a job; this runs in its own process."""
    given = json.loads(job)
    paths = {name: Path(given[name]) for name in ("artefact", "folder")}
    return make(Order(**{**given, **paths, "original": Original.from_json(given["original"])}))
