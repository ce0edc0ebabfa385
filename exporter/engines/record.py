"""What a passport says of a compiled engine: all that decides where it loads.

``passport["engine"]`` is written by the targets that build engines (``trt``, ``trt-rtx``) and
read here by those that judge one before anybody deserializes it, which runs code from it.
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from exporter.artifact.folder import Artifact
from exporter.errors import ExporterError, Missing, WrongUse

ENGINE = "engine.plan"
LAYERS = "layers.json"
FIELD = "engine"

Flavour = Literal["tensorrt", "tensorrt_rtx"]
HardwareCompatibility = Literal["none", "ampere+", "same_compute_capability"]


@dataclass(frozen=True)
class EngineRecord:
    """One engine.

    Attributes:
        flavour: the library that built it and must run it.
        tensorrt: that library's version, as it gives it ("10.3.0" or "10.3.0.30").
        compute_capabilities: of the GPU it was built on, or all that it was built for ("8.7").
        hardware_compatibility: the level it was built with.
        version_compatible: whether it was built with VERSION_COMPATIBLE.
        os: as in ``platform.system().lower()``: "linux".
        arch: as in ``platform.machine()``: "x86_64", "aarch64".
        cuda: version of the CUDA runtime it was built with, None where not known.
        driver: version of the driver it was built under, None where there was none.
        gpu: name of the GPU it was built on, None where there was none.
        dla_core: that it was built for, None for the GPU alone.
        profile: by input, the shapes it accepts: ``{"min": [...], "opt": [...], "max": [...]}``.
    """

    flavour: Flavour
    tensorrt: str
    compute_capabilities: tuple[str, ...]
    hardware_compatibility: HardwareCompatibility
    version_compatible: bool
    os: str
    arch: str
    cuda: str | None = None
    driver: str | None = None
    gpu: str | None = None
    dla_core: int | None = None
    profile: dict[str, Any] | None = None

    def as_json(self) -> dict[str, Any]:
        """Return what belongs into the passport, under :data:`FIELD`."""
        return {**asdict(self), "compute_capabilities": list(self.compute_capabilities)}


def read(artifact: Artifact) -> EngineRecord:
    """Read an artifact's engine record, which holds for the engine of the passport's hash alone.

    Raises:
        WrongUse: it was not made for TensorRT.
        Missing: its engine has not been compiled yet.
        ExporterError: the record is damaged.
    """
    record = artifact.passport.get(FIELD)
    if record is None and not artifact.target.startswith("trt"):
        raise WrongUse(
            f"{artifact.path} is for {artifact.target}: it holds no TensorRT engine",
            hint="which targets work on this machine: exporter doctor",
        )
    if record is None or ENGINE not in artifact.passport["files"]:
        raise Missing(
            f"{artifact.path} is not compiled: there is no engine in it yet",
            hint=f"on the machine that will run it: exporter compile {artifact.path}; what its "
            "graph loses, simulated here, tells: exporter evaluate --ladder",
        )
    return parse(record, artifact.path)


def parse(record: Any, where: Path) -> EngineRecord:
    """Check a record's fields.

    Raises:
        ExporterError: a field is missing, of another type or unknown to this version.
    """
    fields = record if isinstance(record, dict) else {}
    capabilities = fields.get("compute_capabilities")
    # Each row: what must hold, and the field that it is about.
    checks = (
        (fields.get("flavour") in get_args(Flavour), "flavour"),
        (_is_version(fields.get("tensorrt")), "tensorrt"),
        (
            isinstance(capabilities, list)
            and bool(capabilities)
            and all(isinstance(one, str) and re.fullmatch(r"\d+\.\d", one) for one in capabilities),
            "compute_capabilities",
        ),
        (
            fields.get("hardware_compatibility") in get_args(HardwareCompatibility),
            "hardware_compatibility",
        ),
        (isinstance(fields.get("version_compatible"), bool), "version_compatible"),
        (isinstance(fields.get("os"), str), "os"),
        (isinstance(fields.get("arch"), str), "arch"),
        (fields.get("cuda") is None or _is_version(fields["cuda"]), "cuda"),
        (fields.get("driver") is None or _is_version(fields["driver"]), "driver"),
        (isinstance(fields.get("gpu"), (str, type(None))), "gpu"),
        (_is_core(fields.get("dla_core")), "dla_core"),
        (isinstance(fields.get("profile"), (dict, type(None))), "profile"),
    )
    if wrong := [name for ok, name in checks if not ok]:
        raise ExporterError(
            f"{where}: the passport's record of its engine is damaged: {', '.join(wrong)}",
            hint=f"compile it again: exporter compile {where}",
        )
    # Fields of later versions are left out.
    known: dict[str, Any] = {name: fields.get(name) for name in EngineRecord.__dataclass_fields__}
    known["compute_capabilities"] = tuple(fields["compute_capabilities"])
    return EngineRecord(**known)


def _is_version(value: Any) -> bool:
    return isinstance(value, str) and re.fullmatch(r"\d+(\.\d+)+\w*([.+-]\w+)*", value) is not None


def _is_core(value: Any) -> bool:
    return value is None or (type(value) is int and value >= 0)
