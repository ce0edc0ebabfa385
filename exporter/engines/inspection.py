"""Read what `exporter inspect` shows: an artifact's passport, its engine's layers, or both."""

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
# Why there are no layers to audit, by the library that built the engine; None: not built yet.
_NO_LAYERS = {
    None: "run exporter compile on the target machine; it records the layers",
    "tensorrt": "compile the engine again; this records its layers: exporter compile --force",
    "tensorrt_rtx": "a TensorRT-RTX plan gets its kernels when a GPU loads it; without a driver, "
    "nothing in it can be inspected, so exporter records no layers",
}


@dataclass(frozen=True)
class Inspection:
    """The result. ``passport`` is None for a layer-info file; ``audit`` is None without layers."""

    path: Path
    passport: artifact.Passport | None
    audit: Audit | None

    def as_json(self) -> dict[str, Any]:
        """Return the passport's fields, if any, together with ``audit``, if any."""
        if self.audit is None:
            return {**(self.passport or {})}
        return {**(self.passport or {}), "audit": self.audit.as_json()}

    def require_int8(self) -> None:
        """Refuse an engine that doesn't run in INT8 throughout.

        Raises:
            GateRefused: it doesn't. The hint names layers and shortcuts.
            Missing: there is no record of its layers.
        """
        if self.audit is None:
            engine = (self.passport or {}).get(FIELD) or {}
            raise Missing(
                f"{self.path} has no record of an engine's layers, so their precision is unknown",
                hint=_NO_LAYERS.get(engine.get("flavour")),
            )
        if objections := self.audit.objections():
            more = len(objections) - _MOST_OBJECTIONS
            shown = objections[:_MOST_OBJECTIONS]
            shown += [f"and {more} more; --json lists them all"] if more > 0 else []
            raise GateRefused(f"{self.path} is not INT8 throughout", hint="\n".join(shown))


def inspect(path: Path, profile: Path | None = None) -> Inspection:
    """Read an artifact or a layer-info file.

    Args:
        path: an artifact, or a file that trtexec wrote. All files of an artifact are verified
            first.
        profile: file with times by layer.

    Raises:
        WrongUse: the path is neither, or there is a profile but no layers.
        ExporterError: a file is damaged or doesn't match the passport.
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
                f"{path} has no {LAYERS}, which a profile needs",
                hint="give trtexec's layer-info file instead of the artifact",
            )
        return Inspection(path, found.passport, None)
    result = audit(read_layers(found.file(LAYERS)), times, _groups(found))
    return Inspection(path, found.passport, result)


def _groups(found: artifact.Artifact) -> dict[str, int]:
    """Return the ``group`` of the graph's convolutions by node name."""
    if artifact.MODEL not in found.passport["files"]:
        return {}
    import onnx

    try:
        graph = onnx.load(found.file(artifact.MODEL), load_external_data=False).graph
    except Exception as error:  # protobuf's own kind, which has no types
        raise ExporterError(
            f"{found.path / artifact.MODEL} is not an ONNX graph: {error}"
        ) from error
    return {
        node.name: next((each.i for each in node.attribute if each.name == "group"), 1)
        for node in graph.node
        if node.op_type == "Conv"
    }
