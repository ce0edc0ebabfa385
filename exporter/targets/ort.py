"""ONNX Runtime on the CPU: opens ``model.onnx`` itself, with all its graph optimizations."""

from __future__ import annotations

from pathlib import Path

import onnxruntime as ort

from exporter.artifact.folder import MODEL, Artifact
from exporter.errors import ExporterError
from exporter.machine.cpus import refuse_saturation
from exporter.network.runner import Feeds, usable_cores
from exporter.targets import Build, Compiled

PROVIDERS = ["CPUExecutionProvider"]
# It quantizes the weights of a convolution between DQ and Q, thus of one left in float on purpose
# too. Weights that are to be integers come as such, so that is all it could do here.
NOT_THESE = ["WeightBiasQuantization"]


class OrtRunner:
    """One session.

    ``threads`` None means all cores this process may use; ``as_written`` turns every graph
    optimization off; ``trace`` begins the name of a file that gets the time of every node.
    """

    def __init__(
        self,
        model: Path | bytes,
        threads: int | None = None,
        *,
        as_written: bool = False,
        trace: Path | None = None,
    ) -> None:
        self._model = model if isinstance(model, bytes) else str(model)
        self._threads = threads or usable_cores()
        self.as_written = as_written
        self._trace = trace

    @property
    def graph(self) -> bytes:
        """The graph that it runs, serialized."""
        return self._model if isinstance(self._model, bytes) else Path(self._model).read_bytes()

    def __enter__(self) -> OrtRunner:
        """Load and optimize the graph.

        Raises:
            ExporterError: onnxruntime refuses it.
        """
        options = ort.SessionOptions()
        options.intra_op_num_threads = self._threads
        options.log_severity_level = 3
        if self.as_written:
            options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        if self._trace:
            options.enable_profiling = True
            options.profile_file_prefix = str(self._trace)
        try:
            self._session = ort.InferenceSession(
                self._model, options, providers=PROVIDERS, disabled_optimizers=NOT_THESE
            )
        except Exception as error:  # onnxruntime's exceptions have no common public base
            raise ExporterError(f"onnxruntime refuses the graph: {error}") from error
        self._outputs = [output.name for output in self._session.get_outputs()]
        return self

    def __exit__(self, *_: object) -> None:
        """Free the session and its threads; the trace is written."""
        if self._trace:
            self._session.end_profiling()
        del self._session

    def infer(self, feeds: Feeds) -> Feeds:
        """Run one batch."""
        return dict(zip(self._outputs, self._session.run(self._outputs, feeds), strict=True))


def compile(folder: Path, build: Build) -> Compiled:
    """Prove that onnxruntime takes the graph; it needs no file of its own."""
    with OrtRunner(folder / MODEL):
        pass
    return Compiled({"version": ort.__version__, "providers": PROVIDERS})


def open(artifact: Artifact, threads: int | None = None) -> OrtRunner:
    """Open ``model.onnx`` once its hash is the passport's.

    Raises:
        Missing: its 8-bit weights need VNNI, which this CPU lacks.
    """
    found = artifact.quantization
    if found is not None and found.get("scheme") == "cpu":  # others are simulated
        refuse_saturation(artifact.path, found)
    return OrtRunner(artifact.file(MODEL), threads)
