"""The plain graph; run here by onnxruntime as it is written, so that it can be evaluated."""

from __future__ import annotations

from exporter.artifact.folder import MODEL, Artifact
from exporter.targets.ort import OrtRunner, compile

__all__ = ["compile", "open"]


def open(artifact: Artifact, threads: int | None = None) -> OrtRunner:
    """Open ``model.onnx``; INT8 and FP16 are simulated, without optimizations.

    Q and DQ run as written. Each FP16 tensor is rounded to FP16 behind float32 arithmetic, as
    onnxruntime by itself would leave most of those roundings out.
    """
    file = artifact.file(MODEL)
    if "fp16" in artifact.passport:
        from exporter.passes.simulate_fp16 import simulated

        return OrtRunner(simulated(file.read_bytes()), threads, as_written=True)
    return OrtRunner(file, threads, as_written=artifact.is_simulation)
