"""What `exporter inspect` looks at: an artifact's passport, its engine's layers, or both."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from exporter.artifact import folder as artifact
from exporter.engines.audit import Audit, audit
from exporter.engines.layers import read_layers, read_times
from exporter.engines.record import FIELD, LAYERS
from exporter.errors import ExporterError, GateRefused, Missing, WrongUse

_MOST_OBJECTIONS = 10
# Why there are no layers to audit, by the library that built the engine; None: nothing did yet.
_NO_LAYERS = {
    None: "an engine built on this artefact's target records them: exporter compile",
    "tensorrt": "compile it again, which records them: exporter compile --force",
    "tensorrt_rtx": "a TensorRT-RTX plan gets its kernels when a GPU loads it: without a driver "
    "nothing in it can be inspected, and this project records nothing then",
}


@dataclass(frozen=True)
class Inspection:
    """What was found; ``passport`` is None for a bare layer-info file, ``audit`` without layers."""

    path: Path
    passport: artifact.Passport | None
    audit: Audit | None

    def as_json(self) -> dict[str, Any]:
        """Return the passport with ``audit`` beside its fields, or the audit alone."""
        if self.audit is None:
            return {**(self.passport or {})}
        return {**(self.passport or {}), "audit": self.audit.as_json()}

    def require_int8(self) -> None:
        """Refuse an engine that does not run in INT8 throughout.

        Raises:
            GateRefused: it does not; names layers and shortcuts.
            Missing: nothing tells.
        """
        if self.audit is None:
            engine = (self.passport or {}).get(FIELD) or {}
            raise Missing(
                f"{self.path} has no record of an engine's layers, so nothing tells what runs",
                hint=_NO_LAYERS.get(engine.get("flavour")),
            )
        if objections := self.audit.objections():
            more = len(objections) - _MOST_OBJECTIONS
            shown = objections[:_MOST_OBJECTIONS]
            shown += [f"and {more} more; all with --json"] if more > 0 else []
            raise GateRefused(f"{self.path} is not INT8 throughout", hint="\n".join(shown))


def inspect(path: Path, profile: Path | None = None) -> Inspection:
    """Read an artifact or a layer-info file.

    Args:
        path: an artifact, whose every file is verified first, or a file of trtexec's.
        profile: times by layer.

    Raises:
        WrongUse: neither of both, or a profile without layers.
        ExporterError: a file is damaged or not the passport's.
    """
    times = None if profile is None else read_times(profile)
    if path.is_file():
        return Inspection(path, None, audit(read_layers(path), times))
    found = artifact.read(path)
    for name in found.passport["files"]:
        found.file(name)
    if LAYERS not in found.passport["files"]:
        if profile is not None:
            raise WrongUse(
                f"{path} has no {LAYERS}, so a profile has nothing to be compared with",
                hint="give trtexec's layer-info file in the artefact's place",
            )
        return Inspection(path, found.passport, None)
    result = audit(read_layers(found.file(LAYERS)), times, _groups(found))
    return Inspection(path, found.passport, result)


def _groups(found: artifact.Artifact) -> dict[str, int]:
    """Read the graph's convolutions: node name and ``group``."""
    if artifact.MODEL not in found.passport["files"]:
        return {}
    import onnx

    try:
        graph = onnx.load(found.file(artifact.MODEL), load_external_data=False).graph
    except Exception as error:  # protobuf's own kind, which has no types
        raise ExporterError(f"{found.path / artifact.MODEL} is no ONNX graph: {error}") from error
    return {
        node.name: next((each.i for each in node.attribute if each.name == "group"), 1)
        for node in graph.node
        if node.op_type == "Conv"
    }
