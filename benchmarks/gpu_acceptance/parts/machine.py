"""Part e: what ``doctor`` says about this machine."""

from __future__ import annotations

from dataclasses import asdict

from benchmarks.gpu_acceptance.parts import Task
from benchmarks.latency import worker
from exporter import diagnosis as doctor
from exporter.engines import here
from exporter.errors import Missing
from exporter.machine.gpus import find_gpus


def answer(job: str) -> worker.Answer:
    """Diagnose this machine.

    Raises:
        Missing: it has no GPU.
    """
    task = Task.from_json(job)
    found = doctor.diagnose()
    if task.device == "cuda" and not find_gpus().devices:
        raise Missing("doctor finds no NVIDIA GPU on this machine", hint="see nvidia-smi")
    machine = here.this_machine("tensorrt_rtx")
    return {"diagnosis": found.as_json(), "machine": asdict(machine)}
