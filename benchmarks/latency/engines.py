"""The engines that a timing process can open: artifacts, the Keras original, bare graphs."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from benchmarks.latency import peers
from benchmarks.latency.peers import AS_RECORDED, Original
from exporter import targets
from exporter.artifact import folder as artifact
from exporter.data.feeds import in_layout
from exporter.network.runner import DeviceRunner, numpy_type

if TYPE_CHECKING:
    from exporter.network.runner import Feeds, Runner

Kind = Literal["artefact", "keras", "keras-xla", "quantize-static", "nncf", "tflite"]


@dataclass(frozen=True)
class Engine:
    """Something to time.

    Attributes:
        name: its name in tables.
        kind: how it is opened.
        path: the artifact; for Keras, an artifact made from the network; for a peer, the folder
            of its model.
        original: for Keras, where the model is.
        cuda_graph: for an engine on a GPU, replay its kernels as one graph.
    """

    name: str
    kind: Kind
    path: Path
    original: Original = AS_RECORDED
    cuda_graph: bool = True

    @classmethod
    def from_json(cls, given: dict[str, Any]) -> Engine:
        """Read the result of ``dataclasses.asdict``, with the path as text."""
        original = Original.from_json(given["original"])
        return cls(**{**given, "path": Path(given["path"]), "original": original})


@dataclass(frozen=True)
class Opened:
    """A ready engine, and the function that turns images into its feeds.

    Attributes:
        runner: the same runner as for measuring accuracy.
        feed: turns preprocessed images, (batch, height, width, channels) float32, into feeds.
        settings: the runtime's settings to record.
    """

    runner: Runner
    feed: Callable[[npt.NDArray[np.float32]], Feeds]
    settings: dict[str, Any]

    def forget(self) -> None:
        """Drop the times measured on a device so far."""
        if isinstance(self.runner, DeviceRunner):
            self.runner.times.clear()

    def device(self) -> dict[str, list[float]]:
        """Return the milliseconds of each call on a device, by part; empty for a CPU engine."""
        if not isinstance(self.runner, DeviceRunner):
            return {}
        times = [asdict(each) for each in self.runner.times]
        return {f"{part}_ms": [each[part] for each in times] for part in (times or [{}])[0]}

    def all_settings(self) -> dict[str, Any]:
        """Return all settings, including those that are known only after a run."""
        found = self.runner.device_settings if isinstance(self.runner, DeviceRunner) else {}
        return {**self.settings, **found}


@contextlib.contextmanager
def opened(engine: Engine, threads: int) -> Iterator[Opened]:
    """Open an engine in this process, which should have no other one.

    Raises:
        ExporterError: the engine can't be opened here.
    """
    ready = _OPENERS[engine.kind](engine, threads)
    with ready.runner:
        yield ready


def _artefact(engine: Engine, threads: int) -> Opened:
    one = artifact.read(engine.path)
    runner = targets.open_artifact(one, threads)
    if isinstance(runner, DeviceRunner):
        runner.time_batches(cuda_graph=engine.cuda_graph)
    return Opened(runner, feeder(one), {"target": one.target, "threads": threads})


def feeder(one: artifact.Artifact) -> Callable[[npt.NDArray[np.float32]], Feeds]:
    """Return the function that turns preprocessed images into an artifact's feeds."""
    port, layout = one.passport["graph"]["inputs"][0], one.passport["layout"]
    dtype = numpy_type(port["dtype"])

    def feed(images: npt.NDArray[np.float32]) -> Feeds:
        return in_layout({port["name"]: images.astype(dtype)}, layout)

    return feed


def _keras(engine: Engine, threads: int) -> Opened:
    """Open the original as one ``tf.function`` in inference mode, optionally compiled by XLA."""
    from benchmarks.accuracy.measure import load_original
    from exporter.network.runner import KerasRunner

    limit_tensorflow(threads)
    where = engine.original
    source = load_original([artifact.read(engine.path)], where.place, where.trust)
    port = source.inputs[0]

    def feed(images: npt.NDArray[np.float32]) -> Feeds:
        return {port.name: images.astype(port.dtype)}

    xla = engine.kind == "keras-xla"
    settings = {"jit_compile": xla, "intra_op_threads": threads, "inter_op_threads": threads}
    import tensorflow as tf

    if tf.config.list_physical_devices("GPU"):  # time it with TF32, the default for its users
        tf.config.experimental.enable_tensor_float_32_execution(True)
        settings["tf32"] = True
    return Opened(KerasRunner(source, jit_compile=xla), feed, settings)


def _peer(engine: Engine, threads: int) -> Opened:
    """Open a model that :mod:`benchmarks.latency.peers` made, in the tool's own engine."""
    description = json.loads((engine.path / peers.DESCRIPTION).read_text())
    port = description["inputs"][0]

    def feed(images: npt.NDArray[np.float32]) -> Feeds:
        return {port["name"]: images.astype(port["dtype"])}

    model = engine.path / peers.PEERS[engine.kind].file
    runner = _PEER_RUNNERS[engine.kind](model, description, threads)
    return Opened(runner, feed, {**description["settings"], "threads": threads})


def _in_onnxruntime(model: Path, _: dict[str, Any], threads: int) -> Runner:
    from exporter.targets.ort import OrtRunner

    return OrtRunner(model, threads)


def _in_openvino(model: Path, description: dict[str, Any], threads: int) -> Runner:
    from exporter.targets.openvino import OpenVinoRunner

    return OpenVinoRunner((model, model.with_suffix(".bin")), "int8", description, threads)


def _in_tflite(model: Path, _: dict[str, Any], threads: int) -> Runner:
    from benchmarks.latency.tflite_int8 import TfliteRunner

    return TfliteRunner(model, threads)  # it has its own threads, not TensorFlow's


_PEER_RUNNERS: dict[str, Callable[[Path, dict[str, Any], int], Runner]] = {
    "quantize-static": _in_onnxruntime,
    "nncf": _in_openvino,
    "tflite": _in_tflite,
}
_OPENERS: dict[Kind, Callable[[Engine, int], Opened]] = {
    "artefact": _artefact,
    "keras": _keras,
    "keras-xla": _keras,
    "quantize-static": _peer,
    "nncf": _peer,
    "tflite": _peer,
}


def limit_tensorflow(threads: int) -> None:
    """Limit TensorFlow to so many threads; it must not have started its device yet.

    Raises:
        Missing: TensorFlow is not installed.
    """
    import os

    from exporter.errors import Missing
    from exporter.machine.install import pip_line
    from exporter.network.keras_env import share_gpus

    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
    try:
        import tensorflow as tf
    except ImportError as error:
        raise Missing("TensorFlow is not installed", hint=pip_line("cpu")) from error
    share_gpus(tf)
    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(threads)
