"""Identify this machine's processor, and what its instruction sets mean for inference.

On Linux this reads ``/proc/cpuinfo``. On other systems the instruction sets are unknown.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from exporter.errors import Missing


@dataclass(frozen=True)
class Capability:
    """What any one of several instruction sets brings, and what lacking all of them costs."""

    any_of: tuple[str, ...]
    present: str
    absent: str


_X86 = (
    Capability(
        ("avx2",),
        "AVX2: 256-bit kernels",
        "no AVX2: engines fall back to SSE kernels, several times slower",
    ),
    Capability(
        ("fma",),
        "FMA: multiply and add in one instruction",
        "no FMA: FP32 convolutions run at about half speed",
    ),
    Capability(
        ("avx512f",),
        "AVX-512: 512-bit kernels",
        "no AVX-512: kernels are 256 bits wide at most",
    ),
    Capability(
        ("avx512_vnni", "avx_vnni"),
        "VNNI: INT8 pays off on the CPU, with unsigned activations (scheme cpu)",
        "no VNNI: INT8 on the CPU needs 7-bit weights (reduce_range) and gains less",
    ),
    Capability(
        ("avx512_bf16", "amx_bf16"),
        "bfloat16: openvino uses it only with --precision bf16",
        "no bfloat16: FP32 graphs run in FP32",
    ),
    Capability(
        ("amx_int8",),
        "AMX: INT8 matrix tiles, if the engine has kernels for them",
        "no AMX: INT8 runs on vector instructions",
    ),
)


_ARM = (
    Capability(
        ("asimddp",),
        "dot products: INT8 on the CPU pays",
        "no dot products: INT8 on the CPU gains little",
    ),
    Capability(
        ("i8mm",),
        "i8mm: INT8 matrix kernels",
        "no i8mm: INT8 runs on dot products at best",
    ),
    Capability(
        ("bf16",),
        "bf16: bfloat16 kernels, where the engine has them",
        "no bf16: FP32 graphs run in FP32",
    ),
)


INSTRUCTION_SETS: dict[str, tuple[str, ...]] = {
    "x86": (
        "avx2",
        "fma",
        "avx512f",
        "avx512_vnni",
        "avx_vnni",
        "avx512_bf16",
        "amx_int8",
        "amx_bf16",
    ),
    "arm": ("asimddp", "i8mm", "bf16"),
}


_CAPABILITIES = {"x86": _X86, "arm": _ARM}


# Keyed by (CPU implementer, CPU part), as Linux on ARM gives no model name. Covers NVIDIA's boards
# and common servers. Numbers: the MIDR_EL1 table of util-linux, sys-utils/lscpu-arm.c.
_ARM_CORES = {
    ("0x41", "0xd07"): "Cortex-A57",
    ("0x41", "0xd08"): "Cortex-A72",
    ("0x41", "0xd0b"): "Cortex-A76",
    ("0x41", "0xd0c"): "Neoverse-N1",
    ("0x41", "0xd40"): "Neoverse-V1",
    ("0x41", "0xd42"): "Cortex-A78AE",
    ("0x41", "0xd49"): "Neoverse-N2",
    ("0x41", "0xd4f"): "Neoverse-V2",
    ("0x41", "0xd83"): "Neoverse-V3AE",
    ("0x4e", "0x004"): "Carmel",
}


@dataclass(frozen=True)
class CpuInfo:
    """What ``/proc/cpuinfo`` says.

    Attributes:
        model: name of the core or processor; "unknown" if there is none.
        instruction_sets: each name in :data:`INSTRUCTION_SETS` for this family, with whether
            every core has it; None if it can't be known.
        consequences: one line for each capability that matters here.
    """

    model: str
    instruction_sets: Mapping[str, bool] | None
    consequences: tuple[str, ...]


@dataclass(frozen=True)
class Cpu:
    """The processor as this process may use it."""

    model: str
    usable_cores: int
    instruction_sets: Mapping[str, bool] | None
    consequences: tuple[str, ...]


def parse_cpuinfo(text: str) -> CpuInfo:
    """Parse the text of Linux's ``/proc/cpuinfo`` on x86 or ARM.

    An instruction set counts only if every core has it, as threads move between cores.
    """
    fields: dict[str, list[str]] = {}
    for line in text.splitlines():
        key, colon, value = line.partition(":")
        if colon:
            fields.setdefault(key.strip(), []).append(value.strip())
    if "flags" in fields:
        family, flags, model = "x86", fields["flags"], fields.get("model name", ["unknown"])[0]
    elif "Features" in fields:
        family, flags, model = "arm", fields["Features"], _arm_model(fields)
    else:
        return CpuInfo("unknown", None, ())
    common = set.intersection(*(set(value.split()) for value in flags))
    return CpuInfo(
        model,
        {name: name in common for name in INSTRUCTION_SETS[family]},
        tuple(
            row.present if common.intersection(row.any_of) else row.absent
            for row in _CAPABILITIES[family]
        ),
    )


def _arm_model(fields: Mapping[str, list[str]]) -> str:
    cores = zip(fields.get("CPU implementer", []), fields.get("CPU part", []), strict=False)
    names = dict.fromkeys(_ARM_CORES.get(core, f"ARM core {core[0]}/{core[1]}") for core in cores)
    return " + ".join(names) or fields.get("model name", ["unknown"])[0]


def lacks_vnni() -> bool:
    """Return whether INT8 sums saturate here: on an x86 CPU that is known to lack VNNI."""
    sets = this_cpu().instruction_sets
    return sets is not None and "avx2" in sets and not (sets["avx512_vnni"] or sets["avx_vnni"])


def refuse_saturation(path: Path, int8: Mapping[str, Any] | None) -> None:
    """Refuse to run an artifact of scheme ``cpu`` if its sums would saturate on this CPU.

    Args:
        path: the artifact's folder.
        int8: the passport's entry on INT8; None if the artifact is in floating point.

    Raises:
        Missing: its 8-bit weights need VNNI, which this CPU lacks.
    """
    if int8 is not None and not int8["reduce_range"] and lacks_vnni():
        raise Missing(
            f"{path} has 8-bit weights, but this CPU has no VNNI, so sums would saturate",
            hint="export it with --weight-bits 7, or run it on a CPU with VNNI",
        )


def cpu_model() -> str:
    """Return the name of this machine's processor; "unknown" if there is none."""
    return this_cpu().model


def cpu_has_any(names: tuple[str, ...]) -> bool:
    """Return whether this CPU is known to have one of these instruction sets."""
    sets = this_cpu().instruction_sets or {}
    return any(sets.get(name, False) for name in names)


def this_cpu() -> Cpu:
    """Examine this machine's processor, as this process may use it."""
    try:
        info = parse_cpuinfo(Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace"))
    except OSError:
        info = CpuInfo(platform.processor() or "unknown", None, ())
    # A container or taskset may leave fewer cores than the machine has.
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    return Cpu(info.model, cores, info.instruction_sets, info.consequences)
