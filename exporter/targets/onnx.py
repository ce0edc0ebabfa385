"""The plain graph. To evaluate it here, onnxruntime runs it exactly as it is written."""

from __future__ import annotations

from exporter.artifact.folder import MODEL, Artifact
from exporter.targets.ort import OrtRunner, compile

__all__ = ["compile", "open"]


def open(artifact: Artifact, threads: int | None = None) -> OrtRunner:
    """Open ``model.onnx``. INT8 and FP16 are simulated, without optimizations.

    Q and DQ run as written. FP16 is computed in float32, and each FP16 tensor is then rounded to
    FP16, as onnxruntime by itself would leave out most of these roundings.
    """
    file = artifact.file(MODEL)
    if "fp16" in artifact.passport:
        from exporter.passes.simulate_fp16 import simulated

        return OrtRunner(simulated(file.read_bytes()), threads, as_written=True)
    return OrtRunner(file, threads, as_written=artifact.quantization is not None)
