"""A passport's record of a compiled engine: everything that decides where it loads.

The targets that build engines (``trt``, ``trt-rtx``) write ``passport["engine"]``. This module
reads it, to judge an engine before anybody deserializes it, as that runs code from it.
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
        tensorrt: that library's own version string ("10.3.0" or "10.3.0.30").
        compute_capabilities: that of the GPU it was built on, or all it was built for ("8.7").
        hardware_compatibility: the level it was built with.
        version_compatible: whether it was built with VERSION_COMPATIBLE.
        os: ``platform.system().lower()``, such as "linux".
        arch: ``platform.machine()``, such as "x86_64" or "aarch64".
        cuda: version of the CUDA runtime it was built with; None if unknown.
        driver: version of the driver it was built with; None if there was none.
        gpu: name of the GPU it was built on; None if there was none.
        dla_core: the DLA core it was built for; None if it only uses the GPU.
        profile: the accepted shapes by input: ``{"min": [...], "opt": [...], "max": [...]}``.
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
        """Return the passport's entry under :data:`FIELD`."""
        return {**asdict(self), "compute_capabilities": list(self.compute_capabilities)}


def read(artifact: Artifact) -> EngineRecord:
    """Read an artifact's engine record. It is valid only for the engine with the passport's hash.

    Raises:
        WrongUse: the artifact isn't for TensorRT.
        Missing: the engine isn't compiled yet.
        ExporterError: the record is damaged.
    """
    record = artifact.passport.get(FIELD)
    if record is None and not artifact.target.startswith("trt"):
        raise WrongUse(
            f"{artifact.path} is for {artifact.target}, so it has no TensorRT engine",
            hint="to see which targets work on this machine, run: exporter doctor",
        )
    if record is None or ENGINE not in artifact.passport["files"]:
        raise Missing(
            f"{artifact.path} is not compiled: there is no engine in it yet",
            hint=f"on the machine that will run it: exporter compile {artifact.path}; to simulate "
            "its accuracy loss here: exporter evaluate --ladder",
        )
    return parse(record, artifact.path)


def parse(record: Any, where: Path) -> EngineRecord:
    """Check a record's fields.

    Raises:
        ExporterError: a field is missing, has the wrong type, or has an unknown value.
    """
    fields = record if isinstance(record, dict) else {}
    capabilities = fields.get("compute_capabilities")
    # Each row: a condition, and the field that it checks.
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
            f"{where}: the passport's engine record is damaged: {', '.join(wrong)}",
            hint=f"compile it again: exporter compile {where}",
        )
    # Drop fields from later versions.
    known: dict[str, Any] = {name: fields.get(name) for name in EngineRecord.__dataclass_fields__}
    known["compute_capabilities"] = tuple(fields["compute_capabilities"])
    return EngineRecord(**known)


def _is_version(value: Any) -> bool:
    return isinstance(value, str) and re.fullmatch(r"\d+(\.\d+)+\w*([.+-]\w+)*", value) is not None


def _is_core(value: Any) -> bool:
    return value is None or (type(value) is int and value >= 0)
