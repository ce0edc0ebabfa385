"""This machine, as a place where engines load."""

from __future__ import annotations

import platform
from pathlib import Path

from exporter.engines.machines import Machine, jetson_module
from exporter.engines.record import Flavour
from exporter.machine.gpus import by_cuda, find_gpus, in_use
from exporter.machine.versions import installed_versions


def this_machine(flavour: Flavour, root: Path = Path("/")) -> Machine:
    """Describe this machine as an engine's target. If it has several GPUs, CUDA's choice counts.

    Args:
        flavour: the library whose version counts.
        root: folder with ``proc`` and the files that :func:`find_gpus` reads.

    Raises:
        Missing: there are several kinds of GPU, and it is unknown which one is used.
    """
    gpu = in_use(find_gpus(root).devices)
    gpu_name = gpu.name if gpu else None
    try:
        board = (root / "proc/device-tree/model").read_text("utf-8", "replace").rstrip("\0\n")
    except OSError:
        board = ""
    # A container has no device tree, but the GPU's name may identify a Jetson: "Orin (nvgpu)".
    jetson = jetson_module(board) or jetson_module(gpu_name or "")
    is_jetson = gpu_name is not None and gpu_name.startswith("Jetson")
    name, capability, dla_cores = jetson or (
        gpu_name,
        gpu.compute_capability if gpu else None,
        None if is_jetson else 0,
    )
    if gpu is not None and capability is None and (asked := by_cuda()) is not None:
        capability = asked.compute_capability
    return Machine(
        "this machine",
        name,
        capability,
        platform.system().lower(),
        platform.machine(),
        tensorrt=installed_versions()[flavour.replace("_", "-")],
        driver=gpu.driver if gpu else None,
        dla_cores=dla_cores,
    )
