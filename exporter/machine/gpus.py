"""Find the NVIDIA GPUs of this machine, using the first tool that answers."""

from __future__ import annotations

import importlib
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from exporter.errors import Missing
from exporter.machine.capabilities import has_precision
from exporter.machine.install import pip_line

T = TypeVar("T")


@dataclass(frozen=True)
class Gpu:
    """One GPU. Unknown fields are None."""

    name: str
    memory_mib: int | None = None
    compute_capability: str | None = None
    driver: str | None = None

    @property
    def described(self) -> str:
        """Its name. If known, also its compute capability and whether it has FP8."""
        if self.compute_capability is None:
            return self.name
        fp8 = "FP8" if has_precision(self.compute_capability, "fp8") else "no FP8"
        return f"{self.name} (compute capability {self.compute_capability}, {fp8})"


@dataclass(frozen=True)
class Gpus:
    """The NVIDIA GPUs, and the tool that found them ("none" if there are none)."""

    found_by: str
    devices: tuple[Gpu, ...]


def find_gpus(root: Path = Path("/")) -> Gpus:
    """Find NVIDIA GPUs with NVML, then ``nvidia-smi``, then a Jetson's or a driver's files.

    Args:
        root: folder with ``dev`` and ``etc``.
    """
    for found_by, find in (("nvidia-ml-py", _by_nvml), ("nvidia-smi", _by_nvidia_smi)):
        if devices := find():
            return Gpus(found_by, devices)
    release = root / "etc" / "nv_tegra_release"
    if release.is_file():
        text = release.read_text(encoding="utf-8", errors="replace")
        return Gpus("/etc/nv_tegra_release", (Gpu(parse_tegra_release(text)),))
    nodes = sorted(
        node for node in (root / "dev").glob("nvidia*") if re.fullmatch(r"nvidia\d+", node.name)
    )
    if nodes:
        return Gpus("/dev", tuple(Gpu(f"NVIDIA GPU (/dev/{node.name})") for node in nodes))
    return Gpus("none", ())


def in_use(devices: tuple[Gpu, ...]) -> Gpu | None:
    """Return the GPU that CUDA (and so TensorRT) uses here; None if there is none.

    NVML and nvidia-smi list all GPUs in bus order. CUDA puts the fastest first and respects
    CUDA_VISIBLE_DEVICES. So if the GPUs differ, only CUDA knows which one it uses.

    Raises:
        Missing: the GPUs differ, and CUDA can't be asked.
    """
    if len({(each.name, each.compute_capability) for each in devices}) <= 1:
        return devices[0] if devices else None
    found = by_cuda()
    if found is None:
        names = ", ".join(dict.fromkeys(each.name for each in devices))
        raise Missing(
            f"this machine has different GPUs ({names}), and it is unknown which one CUDA uses",
            hint=f"install cuda-python, which can find out: {pip_line('target')}",
        )
    kinds = (None, found.compute_capability)
    same = (each for each in devices if each.compute_capability in kinds)
    known = next((each for each in same if each.name == found.name), None)
    return known or replace(found, driver=devices[0].driver)


def by_cuda() -> Gpu | None:
    """Return the GPU that CUDA uses; None without cuda-python or a driver."""

    def properties(cudart: Any, index: int) -> Gpu:
        _, found = cudart.cudaGetDeviceProperties(index)
        return Gpu(found.name.decode(), compute_capability=f"{found.major}.{found.minor}")

    return _ask_cuda(properties)


def bus_id_in_use() -> str | None:
    """Return the PCI bus id of the GPU in use, such as ``0000:65:00.0``; None if unknown."""

    def bus_id(cudart: Any, index: int) -> str:
        _, found = cudart.cudaDeviceGetPCIBusId(32, index)
        return str(found.rstrip(b"\0").decode()).lower()

    return _ask_cuda(bus_id)


def _ask_cuda(ask: Callable[[Any, int], T]) -> T | None:
    """Query CUDA about the device in use; return None without cuda-python or a driver."""
    try:
        cudart = importlib.import_module("cuda.bindings.runtime")
        _, index = cudart.cudaGetDevice()  # the index is None if CUDA can't tell
        return ask(cudart, index)
    except (ImportError, OSError, RuntimeError, AttributeError, TypeError):
        return None


@contextmanager
def open_nvml() -> Iterator[Any]:
    """Yield the initialized NVML module; None if it is not installed or has no driver."""
    nvml: Any = None
    with suppress(Exception):  # not installed, or no driver, which raises NVML's own exception
        module = importlib.import_module("pynvml")
        module.nvmlInit()
        nvml = module
    try:
        yield nvml
    finally:
        if nvml is not None:
            nvml.nvmlShutdown()


def read_each(read: Callable[[Any, int], T]) -> tuple[T, ...]:
    """Read every GPU with NVML. Return () unless it answers for all of them.

    Args:
        read: called with NVML's module and a GPU's index.
    """
    with open_nvml() as nvml:
        if nvml is None:
            return ()
        try:
            return tuple(read(nvml, index) for index in range(nvml.nvmlDeviceGetCount()))
        except nvml.NVMLError:
            return ()


def _by_nvml() -> tuple[Gpu, ...]:
    return read_each(_nvml_gpu)


def _nvml_gpu(nvml: Any, index: int) -> Gpu:
    handle = nvml.nvmlDeviceGetHandleByIndex(index)
    try:
        memory_mib = nvml.nvmlDeviceGetMemoryInfo(handle).total // 2**20
    except nvml.NVMLError:  # a Jetson shares its memory with the CPU
        memory_mib = None
    major, minor = nvml.nvmlDeviceGetCudaComputeCapability(handle)
    return Gpu(
        _text(nvml.nvmlDeviceGetName(handle)),
        memory_mib,
        f"{major}.{minor}",
        _text(nvml.nvmlSystemGetDriverVersion()),
    )


def _text(value: str | bytes) -> str:
    """Return a string, as old releases of nvidia-ml-py return bytes."""
    return value.decode() if isinstance(value, bytes) else value


def _by_nvidia_smi() -> tuple[Gpu, ...]:
    program = shutil.which("nvidia-smi")
    if program is None:
        return ()
    query = "--query-gpu=name,memory.total,compute_cap,driver_version"
    try:
        done = subprocess.run(
            [program, query, "--format=csv,noheader,nounits"],
            capture_output=True,
            text=True,
            timeout=20,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return ()
    return parse_nvidia_smi(done.stdout)


def parse_nvidia_smi(text: str) -> tuple[Gpu, ...]:
    """Parse ``name, memory.total [MiB], compute_cap, driver_version``, one GPU per line."""
    gpus = []
    for line in text.splitlines():
        values = [value.strip() for value in line.split(",")]
        if len(values) != 4:
            continue
        name, memory, capability, driver = values
        gpus.append(
            Gpu(
                name,
                int(memory) if memory.isdecimal() else None,
                capability if re.fullmatch(r"\d+\.\d+", capability) else None,
                driver if re.fullmatch(r"\d[\d.]*", driver) else None,
            )
        )
    return tuple(gpus)


def parse_tegra_release(text: str) -> str:
    """Name a Jetson by the Jetson Linux release that ``/etc/nv_tegra_release`` contains."""
    found = re.search(r"R(\d+) \(release\), REVISION: ([\d.]+)", text)
    if found is None:
        return "Jetson"
    return f"Jetson (Jetson Linux {found[1]}.{found[2]})"
