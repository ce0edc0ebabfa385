"""ONNX Runtime on the CPU: opens ``model.onnx`` directly, with its graph optimizations."""

from __future__ import annotations

from pathlib import Path

import onnxruntime as ort

from exporter.artifact.folder import MODEL, Artifact
from exporter.errors import ExporterError
from exporter.machine.cpus import refuse_saturation
from exporter.network.runner import Feeds, usable_cores
from exporter.targets import Build, Compiled

PROVIDERS = ["CPUExecutionProvider"]
# This one quantizes the weights of any convolution between DQ and Q, even if we left it in float on
# purpose. We don't need it: all other weights are already integers in the graph.
NOT_THESE = ["WeightBiasQuantization"]


class OrtRunner:
    """One session.

    If ``threads`` is None, it uses all cores that this process may use. ``as_written`` turns off
    every graph optimization. ``trace`` is the name prefix of a file for the time of every node.
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
        """The serialized graph."""
        return self._model if isinstance(self._model, bytes) else Path(self._model).read_bytes()

    def __enter__(self) -> OrtRunner:
        """Load and optimize the graph.

        Raises:
            ExporterError: onnxruntime refuses the graph.
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
        """Write the trace, if any, then free the session and its threads."""
        if self._trace:
            self._session.end_profiling()
        del self._session

    def infer(self, feeds: Feeds) -> Feeds:
        """Run one batch."""
        return dict(zip(self._outputs, self._session.run(self._outputs, feeds), strict=True))


def compile(folder: Path, build: Build) -> Compiled:
    """Prove that onnxruntime accepts the graph. This target needs no file of its own."""
    with OrtRunner(folder / MODEL):
        pass
    return Compiled({"version": ort.__version__, "providers": PROVIDERS})


def open(artifact: Artifact, threads: int | None = None) -> OrtRunner:
    """Open ``model.onnx``, if its hash matches the passport.

    Raises:
        Missing: its 8-bit weights need VNNI, which this CPU lacks.
    """
    found = artifact.quantization
    if found is not None and found.get("scheme") == "cpu":  # others are simulated
        refuse_saturation(artifact.path, found)
    return OrtRunner(artifact.file(MODEL), threads)
