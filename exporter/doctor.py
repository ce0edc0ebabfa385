"""What this machine is and which export targets work on it.

Looks without touching: versions come from package metadata and nothing heavy is
imported, so it answers on a machine where half of the libraries are broken. It only
returns data; the command line renders it.
"""

from __future__ import annotations

import dataclasses
import platform
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from exporter.artifact.folder import Artifact
from exporter.engines import record as engine_record
from exporter.engines.compatibility import Fit, judge, require_precision
from exporter.engines.here import this_machine
from exporter.engines.machines import lookup
from exporter.errors import WrongUse
from exporter.machine import cpus
from exporter.machine.cpus import Cpu
from exporter.machine.gpus import Gpus, find_gpus
from exporter.machine.versions import installed_versions
from exporter.targets import TARGETS, Target


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

    ``versions`` holds every name of :data:`exporter.machine.versions.DISTRIBUTIONS`, None where not
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
        cpu=cpus.this_cpu(),
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
    """Judge where an artifact's engine loads; its hash is checked, and nothing is deserialized.

    Args:
        artifact: compiled for TensorRT or TensorRT-RTX.
        machine: a name of :data:`exporter.engines.machines.MACHINES`; None for this machine.
        tensorrt: the version that is there, where neither table nor machine should decide.
        driver: likewise.

    Raises:
        WrongUse: an unknown machine, no version, or an artifact for another target.
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


def _system() -> str:
    try:
        name = platform.freedesktop_os_release().get("PRETTY_NAME", "")
    except OSError:
        name = ""
    kernel = f"{platform.system()} {platform.release()}".strip()
    return f"{name} ({kernel})" if name else kernel
