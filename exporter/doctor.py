"""What this machine is and which export targets work on it.

Looks without touching: versions come from package metadata and nothing heavy is
imported, so it answers on a machine where half of the libraries are broken. It only
returns data; the command line renders it.
"""

from __future__ import annotations

import dataclasses
import os
import platform
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from exporter import engine_record
from exporter.artifact import Artifact
from exporter.compatibility import Fit, judge, require_precision
from exporter.engine_record import Flavour
from exporter.errors import Missing, WrongUse
from exporter.gpus import Gpus, by_cuda, find_gpus, in_use
from exporter.machines import Machine, jetson_module, lookup
from exporter.targets import TARGETS, Target
from exporter.versions import installed_versions


@dataclass(frozen=True)
class Capability:
    """What one of several instruction sets brings, and what lacking all of them costs."""

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
        "VNNI: INT8 on the CPU pays, with unsigned activations (scheme cpu)",
        "no VNNI: INT8 on the CPU needs reduce_range and gains less",
    ),
    Capability(
        ("avx512_bf16", "amx_bf16"),
        "bfloat16: openvino runs in it with --precision bf16, and never unasked",
        "no bfloat16: FP32 graphs run in FP32",
    ),
    Capability(
        ("amx_int8",),
        "AMX: INT8 matrix tiles, where the engine has kernels for them",
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

# (CPU implementer, CPU part) of what NVIDIA's boards and common servers have; Linux on ARM
# gives no model name. Numbers: the MIDR_EL1 table of util-linux, sys-utils/lscpu-arm.c.
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
    """What ``/proc/cpuinfo`` tells.

    Attributes:
        model: the name of the core or of the processor; "unknown" where there is none.
        instruction_sets: those of :data:`INSTRUCTION_SETS` of this family, each with
            whether every core has it; None where it can't be known.
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


@dataclass(frozen=True)
class Ability:
    """Whether something works here; ``why_not`` and ``install`` are None where it does.

    ``install`` is also None where no installation would help.
    """

    usable: bool
    why_not: str | None = None
    install: str | None = None


@dataclass(frozen=True)
class TargetStatus:
    """What of a target works here: each half may without the other.

    Attributes:
        target: its name.
        exports: ``exporter export`` to it.
        compiles: ``exporter compile`` of what was exported elsewhere; None where there is
            nothing to compile.
    """

    target: str
    exports: Ability
    compiles: Ability | None


@dataclass(frozen=True)
class Diagnosis:
    """All that :func:`diagnose` found.

    ``versions`` holds every name of :data:`exporter.versions.DISTRIBUTIONS`, None where not
    installed.
    """

    python: str
    system: str
    architecture: str
    versions: Mapping[str, str | None]
    cpu: Cpu
    gpu: Gpus
    targets: tuple[TargetStatus, ...]

    def as_json(self) -> dict[str, Any]:
        """Return it as JSON values; instruction sets that can't be known are "unknown"."""
        values = dataclasses.asdict(self)
        if self.cpu.instruction_sets is None:
            values["cpu"]["instruction_sets"] = "unknown"
        return values


def diagnose() -> Diagnosis:
    """Look at this machine. Takes a fraction of a second and imports nothing heavy."""
    versions = installed_versions()
    gpu = find_gpus()
    return Diagnosis(
        python=platform.python_version(),
        system=_system(),
        architecture=platform.machine(),
        versions=versions,
        cpu=_cpu(),
        gpu=gpu,
        targets=tuple(target_status(row, versions, gpu) for row in TARGETS.values()),
    )


def target_status(row: Target, versions: Mapping[str, str | None], gpu: Gpus) -> TargetStatus:
    """Compare what a target needs with what is here."""
    exports = _ability(row.distributions, row.install, versions)
    if not row.finish_distributions:
        return TargetStatus(row.name, exports, None)
    compiles = _ability(row.finish_distributions, row.finish_install, versions)
    if row.needs_gpu and not gpu.devices:
        reasons = [compiles.why_not] if compiles.why_not else []
        why_not = "; ".join([*reasons, "no NVIDIA GPU on this machine"])
        compiles = Ability(False, why_not, compiles.install)
    return TargetStatus(row.name, exports, compiles)


def _ability(
    groups: tuple[tuple[str, ...], ...],
    install: str | None,
    versions: Mapping[str, str | None],
) -> Ability:
    lacking = [
        " or ".join(group)
        for group in groups
        if not any(versions.get(name) is not None for name in group)
    ]
    if not lacking:
        return Ability(True)
    return Ability(False, f"not installed: {', '.join(lacking)}", install)


def engine_fit(
    artifact: Artifact,
    machine: str | None = None,
    tensorrt: str | None = None,
    driver: str | None = None,
) -> Fit:
    """Judge where an artefact's engine loads; its hash is checked, and nothing is deserialised.

    Args:
        artifact: compiled for TensorRT or TensorRT-RTX.
        machine: a name of :data:`exporter.machines.MACHINES`; None for this machine.
        tensorrt: the version that is there, where neither table nor machine should decide.
        driver: likewise.

    Raises:
        WrongUse: an unknown machine, no version, or an artefact for another target.
        GateRefused: the engine is not compiled yet, and the machine's GPU lacks its precision.
        Missing: the engine is not compiled yet.
        ExporterError: the engine or its record is damaged.
    """
    for option, version in (("--tensorrt", tensorrt), ("--driver", driver)):
        if version is not None and not re.fullmatch(r"\d+(\.\d+)*", version):
            raise WrongUse(f"{option} {version!r} is no version", hint="such as 10.13.3 or 580.65")
    if engine_record.FIELD not in artifact.passport and artifact.target.startswith("trt"):
        row = this_machine("tensorrt") if machine is None else lookup(machine)
        require_precision(artifact.passport["precision"], row)
    engine = engine_record.read(artifact)
    artifact.file(engine_record.ENGINE)
    if machine is None:
        here = this_machine(engine.flavour)
        row = dataclasses.replace(
            here, tensorrt=tensorrt or here.tensorrt, driver=driver or here.driver
        )
    else:
        row = lookup(machine, tensorrt, driver)
    return judge(engine, artifact.passport["precision"], row)


def this_machine(flavour: Flavour, root: Path = Path("/")) -> Machine:
    """Describe this machine as an engine's target; of several GPUs by that which CUDA uses.

    Args:
        flavour: the library whose version counts.
        root: where ``proc`` and what :func:`find_gpus` reads are looked for.

    Raises:
        Missing: there are several kinds of GPU, and nothing tells which is used.
    """
    gpu = in_use(find_gpus(root).devices)
    gpu_name = gpu.name if gpu else None
    try:
        board = (root / "proc/device-tree/model").read_text("utf-8", "replace").rstrip("\0\n")
    except OSError:
        board = ""
    # A container sees no device tree; there the GPU's own name may tell, such as "Orin (nvgpu)".
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


def parse_cpuinfo(text: str) -> CpuInfo:
    """Read the text of Linux's ``/proc/cpuinfo``, x86 or ARM.

    An instruction set counts when every core has it: threads move between cores.
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
    """Whether INT8 products saturate here: an x86 CPU that is known not to have VNNI."""
    sets = _cpu().instruction_sets
    return sets is not None and "avx2" in sets and not (sets["avx512_vnni"] or sets["avx_vnni"])


def refuse_saturation(path: Path, int8: Mapping[str, Any] | None) -> None:
    """Refuse to run an artefact of scheme ``cpu`` whose sums would saturate on this CPU.

    Args:
        path: of the artefact.
        int8: what its passport says of INT8; None where it is in floating point.

    Raises:
        Missing: its 8-bit weights need VNNI, which this CPU lacks.
    """
    if int8 is not None and not int8["reduce_range"] and lacks_vnni():
        raise Missing(
            f"{path} has 8-bit weights, and this CPU has no VNNI: sums would saturate",
            hint="export it with --weight-bits 7, or run it on a CPU with VNNI",
        )


def cpu_model() -> str:
    """The name of this machine's processor; "unknown" where there is none."""
    return _cpu().model


def cpu_has_any(names: tuple[str, ...]) -> bool:
    """Whether this CPU is known to have one of these instruction sets."""
    sets = _cpu().instruction_sets or {}
    return any(sets.get(name, False) for name in names)


def _cpu() -> Cpu:
    try:
        info = parse_cpuinfo(Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace"))
    except OSError:
        info = CpuInfo(platform.processor() or "unknown", None, ())
    # A container or taskset may leave fewer cores than the machine has.
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    return Cpu(info.model, cores, info.instruction_sets, info.consequences)


def _system() -> str:
    try:
        name = platform.freedesktop_os_release().get("PRETTY_NAME", "")
    except OSError:
        name = ""
    kernel = f"{platform.system()} {platform.release()}".strip()
    return f"{name} ({kernel})" if name else kernel
