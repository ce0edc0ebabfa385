"""Find out what this machine is and which export targets work on it.

Versions come from package metadata and nothing heavy is imported, so this works even if half of
the libraries are broken. This module only returns data; the command line displays it.
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
    """Whether something works here. If it does, ``why_not`` and ``install`` are None.

    ``install`` is also None if no installation would help.
    """

    usable: bool
    why_not: str | None = None
    install: str | None = None


@dataclass(frozen=True)
class TargetStatus:
    """Which steps of a target work here. Each may work without the other.

    Attributes:
        target: name of the target.
        exports: whether ``exporter export`` to it works.
        compiles: whether ``exporter compile`` works for artifacts exported elsewhere; None if
            the target has nothing to compile.
    """

    target: str
    exports: Ability
    compiles: Ability | None


@dataclass(frozen=True)
class Diagnosis:
    """Everything that :func:`diagnose` found.

    ``versions`` has every name of :data:`exporter.machine.versions.DISTRIBUTIONS`; the version is
    None if the package isn't installed.
    """

    python: str
    system: str
    architecture: str
    versions: Mapping[str, str | None]
    cpu: Cpu
    gpu: Gpus
    targets: tuple[TargetStatus, ...]

    def as_json(self) -> dict[str, Any]:
        """Return JSON values. If the instruction sets can't be known, they are "unknown"."""
        values = dataclasses.asdict(self)
        if self.cpu.instruction_sets is None:
            values["cpu"]["instruction_sets"] = "unknown"
        return values


def diagnose() -> Diagnosis:
    """Examine this machine. This takes a fraction of a second and imports nothing heavy."""
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
    """Compare what a target needs with what this machine has."""
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
    """Judge whether an artifact's engine loads. Checks its hash, and deserializes nothing.

    Args:
        artifact: compiled for TensorRT or TensorRT-RTX.
        machine: a name from :data:`exporter.engines.machines.MACHINES`; None for this machine.
        tensorrt: TensorRT version on that machine; overrides the known one.
        driver: NVIDIA driver on that machine; overrides the known one.

    Raises:
        WrongUse: unknown machine, malformed version, or artifact for another target.
        GateRefused: the engine is not compiled yet, and the machine's GPU lacks its precision.
        Missing: the engine is not compiled yet.
        ExporterError: the engine or its record is damaged.
    """
    for option, version in (("--tensorrt", tensorrt), ("--driver", driver)):
        if version is not None and not re.fullmatch(r"\d+(\.\d+)*", version):
            raise WrongUse(
                f"{option} {version!r} is not a version",
                hint="give numbers, such as 10.13.3 or 580.65",
            )
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
