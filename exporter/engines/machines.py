"""The machines that an engine may be meant for, as tables; rules are in `compatibility`.

A cell that no document of NVIDIA's was found for is named in its row's ``unverified``, and shown
as such. Compute capabilities: https://developer.nvidia.com/cuda-gpus and, for Xavier and before,
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
    """What decides whether an engine loads; None for what is not known or up to its owner.

    Attributes:
        name: what users call it.
        gpu: its name.
        compute_capability: "8.7"; None where there is no GPU or it is not known.
        os: "linux".
        arch: "x86_64" or "aarch64".
        tensorrt: version of TensorRT; of TensorRT-RTX where that is what the engine needs.
        driver: version of the NVIDIA driver; a Jetson's belongs to its JetPack.
        jetpack: version, None where it is no Jetson.
        dla_cores: how many; 0 for none.
        sources: where the row's values are from.
        unverified: the fields that none of them tells.
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
        """Whether it is an embedded module, with a driver of its own."""
        return self.gpu is not None and self.gpu.startswith("Jetson")


@dataclass(frozen=True)
class _Module:
    """A Jetson: ``board`` is how its device tree begins to name it after "NVIDIA Jetson "."""

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
        "https://github.com/roboflow/inference/pull/2531",  # read on a device; NVIDIA's not found
        ("tensorrt",),
    ),
    _JetPack(  # supported there, and installed apart; what it ships with was not found
        "7.2.2",
        "11.4.1",
        ("jetson-agx-orin", "jetson-thor"),
        _JETSON_11,
        ("tensorrt",),
    ),
)

# Name, GPU, compute capability; TensorRT and driver are what their owner installs.
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
        tensorrt: the version that is installed there, where the table should not decide.
        driver: likewise.

    Raises:
        WrongUse: no such machine; the message lists the nearest names.
    """
    if name not in MACHINES:
        raise unknown_name("machine", name, MACHINES)
    row = MACHINES[name]
    if tensorrt is not None:
        unverified = tuple(field for field in row.unverified if field != "tensorrt")
        row = replace(row, tensorrt=tensorrt, unverified=unverified)
    return row if driver is None else replace(row, driver=driver)


def jetson_module(board: str) -> tuple[str, str, int | None] | None:
    """Tell a Jetson's GPU from its device tree's model, or from what NVML or CUDA call it.

    Args:
        board: the text of ``/proc/device-tree/model``, which does not always say "Jetson", or the
            GPU's name.

    Returns:
        GPU name, compute capability and number of DLA cores; None for other boards.
    """
    if not any(word in board for word in ("Jetson", "Orin", "Xavier")):
        return None
    # The longest name first: "Orin Nano" before "Orin", "AGX Orin" before both.
    rows = sorted(_MODULES.values(), key=lambda row: -len(row.board))
    row = next((row for row in rows if row.board in board), None)
    return None if row is None else (f"Jetson {row.board}", row.compute_capability, row.dla_cores)
