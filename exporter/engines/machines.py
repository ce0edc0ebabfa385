"""Tables of the machines that engines may run on. The rules are in `rules`.

If we found no NVIDIA document for a cell, its row's ``unverified`` names it, and output marks it.
Compute capabilities: https://developer.nvidia.com/cuda-gpus and, for Xavier and before,
https://developer.nvidia.com/cuda-legacy-gpus.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from exporter.errors import unknown_name

_CUDA_GPUS = "https://developer.nvidia.com/cuda-gpus"
_LEGACY_GPUS = "https://developer.nvidia.com/cuda-legacy-gpus"
_JETSON_11 = (
    "https://docs.nvidia.com/deeplearning/tensorrt/11.4.1/api/migration/"
    "tensorrt-10x-to-11x-jetson.html"
)


@dataclass(frozen=True)
class Machine:
    """The facts that decide whether an engine loads. Unknown ones, or the owner's choice, are None.

    Attributes:
        name: the name for users.
        gpu: name of the GPU.
        compute_capability: such as "8.7"; None if there is no GPU or it is unknown.
        os: "linux".
        arch: "x86_64" or "aarch64".
        tensorrt: version of TensorRT, or of TensorRT-RTX if the engine needs that.
        driver: version of the NVIDIA driver. A Jetson's driver belongs to its JetPack.
        jetpack: version of JetPack; None if it isn't a Jetson.
        dla_cores: number of DLA cores; 0 if it has none.
        sources: the sources of the row's values.
        unverified: the fields that no source confirms.
    """

    name: str
    gpu: str | None
    compute_capability: str | None
    os: str
    arch: str
    tensorrt: str | None = None
    driver: str | None = None
    jetpack: str | None = None
    dla_cores: int | None = 0
    sources: tuple[str, ...] = ()
    unverified: tuple[str, ...] = ()

    @property
    def is_jetson(self) -> bool:
        """Whether it is an embedded module, which has its own driver."""
        return self.gpu is not None and self.gpu.startswith("Jetson")


@dataclass(frozen=True)
class _Module:
    """A Jetson. ``board`` is how its name in the device tree begins, after "NVIDIA Jetson "."""

    name: str
    board: str
    compute_capability: str
    dla_cores: int | None
    source: str
    unverified: tuple[str, ...] = ()


# DLA: Xavier and Orin have it, Thor has none ("Working with DLA", TensorRT 11.4.1; README of
# github.com/NVIDIA/Deep-Learning-Accelerator-SW: up to two cores). "jetson-orin" is any Orin.
_MODULES = {
    row.name: row
    for row in (
        _Module("jetson-nano", "Nano", "5.3", 0, _LEGACY_GPUS),
        _Module("jetson-tx2", "TX2", "6.2", 0, _LEGACY_GPUS),
        _Module("jetson-agx-xavier", "AGX Xavier", "7.2", 2, _LEGACY_GPUS, ("dla_cores",)),
        _Module("jetson-xavier-nx", "Xavier NX", "7.2", 2, _LEGACY_GPUS, ("dla_cores",)),
        _Module("jetson-agx-orin", "AGX Orin", "8.7", 2, _CUDA_GPUS),
        _Module("jetson-orin-nx", "Orin NX", "8.7", None, _CUDA_GPUS),
        _Module("jetson-orin-nano", "Orin Nano", "8.7", 0, _CUDA_GPUS, ("dla_cores",)),
        _Module("jetson-orin", "Orin", "8.7", None, _CUDA_GPUS),
        _Module("jetson-thor", "AGX Thor", "11.0", 0, _CUDA_GPUS),
    )
}


@dataclass(frozen=True)
class _JetPack:
    version: str
    tensorrt: str
    modules: tuple[str, ...]
    source: str
    unverified: tuple[str, ...] = ()


_MAXWELL = ("jetson-nano", "jetson-tx2")
_XAVIER = ("jetson-agx-xavier", "jetson-xavier-nx")
_ORIN = ("jetson-agx-orin", "jetson-orin-nx", "jetson-orin-nano", "jetson-orin")
_JETPACKS = (
    _JetPack(
        "4.6.1",
        "8.2.1",
        (*_MAXWELL, *_XAVIER),
        "https://developer.nvidia.com/jetpack-sdk-461",  # says 8.2
        ("tensorrt",),
    ),
    _JetPack(
        "5.0.2",
        "8.4.1",
        (*_XAVIER, "jetson-agx-orin"),
        "https://developer.nvidia.com/embedded/jetpack-sdk-502",
    ),
    _JetPack(
        "5.1",
        "8.5.2",
        (*_XAVIER, "jetson-agx-orin", "jetson-orin-nx", "jetson-orin"),
        "https://developer.nvidia.com/embedded/jetpack-sdk-51",
    ),
    _JetPack(
        "5.1.1",
        "8.5.2",
        (*_XAVIER, *_ORIN),
        "https://developer.nvidia.com/embedded/jetpack-sdk-511",
    ),
    _JetPack(
        "5.1.2",
        "8.5.2",
        (*_XAVIER, *_ORIN),
        "https://developer.nvidia.com/embedded/jetpack-sdk-512",
    ),
    _JetPack(
        "6.0",
        "8.6.2",
        _ORIN,
        "https://developer.nvidia.com/embedded/jetpack-sdk-60",
        ("tensorrt",),
    ),
    _JetPack(
        "6.1",
        "10.3.0",
        _ORIN,
        "https://docs.pytorch.org/TensorRT/v2.6.1/getting_started/jetpack.html",
    ),
    _JetPack(
        "6.2",
        "10.3.0",
        _ORIN,
        "https://docs.pytorch.org/TensorRT/getting_started/jetpack.html",
    ),
    _JetPack(
        "7.1",
        "10.13.3",
        ("jetson-thor",),
        "https://developer.nvidia.com/embedded/jetpack/downloads/archive-7.1",
    ),
    _JetPack(
        "7.2",
        "10.16.2",
        (*_ORIN, "jetson-thor"),
        # Read on a device. We found no NVIDIA document.
        "https://github.com/roboflow/inference/pull/2531",
        ("tensorrt",),
    ),
    _JetPack(  # supports this version, installed separately; we didn't find the shipped version
        "7.2.2",
        "11.4.1",
        ("jetson-agx-orin", "jetson-thor"),
        _JETSON_11,
        ("tensorrt",),
    ),
)

# Name, GPU, compute capability. The owner chooses TensorRT and the driver.
_GPUS = (
    ("t4", "T4", "7.5"),
    ("a100", "A100", "8.0"),
    ("a30", "A30", "8.0"),
    ("a2", "A2", "8.6"),
    ("a10", "A10", "8.6"),
    ("a40", "A40", "8.6"),
    ("l4", "L4", "8.9"),
    ("l40", "L40", "8.9"),
    ("l40s", "L40S", "8.9"),
    ("h100", "H100", "9.0"),
    ("h200", "H200", "9.0"),
    ("b200", "B200", "10.0"),
    ("b300", "B300", "10.3"),
    ("rtx-2080-ti", "GeForce RTX 2080 Ti", "7.5"),
    ("rtx-3060", "GeForce RTX 3060", "8.6"),
    ("rtx-3080", "GeForce RTX 3080", "8.6"),
    ("rtx-3090", "GeForce RTX 3090", "8.6"),
    ("rtx-4060", "GeForce RTX 4060", "8.9"),
    ("rtx-4070", "GeForce RTX 4070", "8.9"),
    ("rtx-4080", "GeForce RTX 4080", "8.9"),
    ("rtx-4090", "GeForce RTX 4090", "8.9"),
    ("rtx-5060", "GeForce RTX 5060", "12.0"),
    ("rtx-5070", "GeForce RTX 5070", "12.0"),
    ("rtx-5080", "GeForce RTX 5080", "12.0"),
    ("rtx-5090", "GeForce RTX 5090", "12.0"),
    ("v100", "V100", "7.0"),
)
_ARM_GPUS = (("gh200", "GH200", "9.0"), ("gb200", "GB200", "10.0"), ("dgx-spark", "GB10", "12.1"))


def _jetson(jetpack: _JetPack, module: _Module) -> Machine:
    return Machine(
        f"{module.name}-jp{jetpack.version}",
        f"Jetson {module.board}",
        module.compute_capability,
        "linux",
        "aarch64",
        tensorrt=jetpack.tensorrt,
        jetpack=jetpack.version,
        dla_cores=module.dla_cores,
        sources=(jetpack.source, module.source),
        unverified=(*jetpack.unverified, *module.unverified),
    )


MACHINES: dict[str, Machine] = {
    row.name: row
    for row in (
        *(_jetson(pack, _MODULES[name]) for pack in _JETPACKS for name in pack.modules),
        *(Machine(*row, "linux", "x86_64", sources=(_CUDA_GPUS,)) for row in _GPUS),
        *(Machine(*row, "linux", "aarch64", sources=(_CUDA_GPUS,)) for row in _ARM_GPUS),
    )
}


def lookup(name: str, tensorrt: str | None = None, driver: str | None = None) -> Machine:
    """Find a machine by name.

    Args:
        name: such as "jetson-orin-jp6.2" or "t4".
        tensorrt: installed TensorRT version; overrides the table's.
        driver: installed NVIDIA driver; overrides the table's.

    Raises:
        WrongUse: there is no such machine. The hint lists the nearest names.
    """
    if name not in MACHINES:
        raise unknown_name("machine", name, MACHINES)
    row = MACHINES[name]
    if tensorrt is not None:
        unverified = tuple(field for field in row.unverified if field != "tensorrt")
        row = replace(row, tensorrt=tensorrt, unverified=unverified)
    return row if driver is None else replace(row, driver=driver)


def jetson_module(board: str) -> tuple[str, str, int | None] | None:
    """Identify a Jetson's GPU from the model in its device tree, or from its name in NVML or CUDA.

    Args:
        board: the text of ``/proc/device-tree/model``, which doesn't always contain "Jetson", or
            the GPU's name.

    Returns:
        GPU name, compute capability and number of DLA cores; None for other boards.
    """
    if not any(word in board for word in ("Jetson", "Orin", "Xavier")):
        return None
    # Try the longest name first: "Orin Nano" and "AGX Orin" before "Orin".
    rows = sorted(_MODULES.values(), key=lambda row: -len(row.board))
    row = next((row for row in rows if row.board in board), None)
    return None if row is None else (f"Jetson {row.board}", row.compute_capability, row.dla_cores)
