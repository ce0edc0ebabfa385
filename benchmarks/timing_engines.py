"""The engines that a timing process can open: artefacts, the Keras original, bare graphs."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from exporter import artifact, targets
from exporter.feeds import in_layout

if TYPE_CHECKING:
    from exporter.runner import Feeds, Runner

Kind = Literal["artefact", "keras", "keras-xla"]


@dataclass(frozen=True)
class Engine:
    """Something to time.

    Attributes:
        name: what tables call it.
        kind: how it is opened.
        path: the artefact, or for Keras an artefact that says which network it was made from.
        original: where the Keras model is, if not where the passport says.
        unsafe: allow Lambda layers in the original.
    """

    name: str
    kind: Kind
    path: Path
    original: str | None = None
    unsafe: bool = False


@dataclass(frozen=True)
class Opened:
    """A ready engine, and what turns images into its feeds.

    Attributes:
        runner: as an accuracy measurement would use it.
        feed: (batch, height, width, channels) float32, preprocessed, to feeds.
        settings: of the runtime, as they should be recorded.
    """

    runner: Runner
    feed: Callable[[npt.NDArray[np.float32]], Feeds]
    settings: dict[str, Any]


@contextlib.contextmanager
def opened(engine: Engine, threads: int) -> Iterator[Opened]:
    """Open an engine in this process, which should hold no other.

    Raises:
        ExporterError: it does not open here.
    """
    make = {"artefact": _artefact, "keras": _keras, "keras-xla": _keras}[engine.kind]
    ready = make(engine, threads)
    with ready.runner:
        yield ready


def _artefact(engine: Engine, threads: int) -> Opened:
    one = artifact.read(engine.path)
    settings = {"target": one.target, "threads": threads}
    return Opened(targets.open_artifact(one, threads), feeder(one), settings)


def feeder(one: artifact.Artifact) -> Callable[[npt.NDArray[np.float32]], Feeds]:
    """Return what turns preprocessed images into an artefact's feeds, by its passport."""
    port, layout = one.passport["graph"]["inputs"][0], one.passport["layout"]
    dtype = numpy_type(port["dtype"])

    def feed(images: npt.NDArray[np.float32]) -> Feeds:
        return in_layout({port["name"]: images.astype(dtype)}, layout)

    return feed


def _keras(engine: Engine, threads: int) -> Opened:
    """Open the original as one compiled ``tf.function`` in inference mode, or by XLA."""
    from benchmarks.accuracy import load_original
    from exporter.runner import KerasRunner

    limit_tensorflow(threads)
    source = load_original([artifact.read(engine.path)], engine.original, engine.unsafe)
    port = source.inputs[0]

    def feed(images: npt.NDArray[np.float32]) -> Feeds:
        return {port.name: images.astype(port.dtype)}

    xla = engine.kind == "keras-xla"
    settings = {"jit_compile": xla, "intra_op_threads": threads, "inter_op_threads": threads}
    return Opened(KerasRunner(source, jit_compile=xla), feed, settings)


def limit_tensorflow(threads: int) -> None:
    """Hold TensorFlow to so many threads; it must not have started its device yet.

    Raises:
        Missing: TensorFlow is not installed.
    """
    import os

    from exporter.errors import Missing
    from exporter.keras_env import INSTALL_HINT

    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
    try:
        import tensorflow as tf
    except ImportError as error:
        raise Missing("TensorFlow is not installed", hint=INSTALL_HINT) from error
    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(threads)


def numpy_type(name: str) -> npt.DTypeLike:
    """Return numpy's type for a passport's name of an ONNX type, such as ``FLOAT``."""
    import onnx_ir as ir

    return ir.DataType[name.upper()].numpy()
