"""Rebuild the graphs between a Keras original and an artifact from the artifact's source."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.accuracy.measure import fixed_batch
from exporter.artifact.folder import CALIBRATION, MODEL, Artifact
from exporter.config import QUANTIZED
from exporter.network.sources import Source

if TYPE_CHECKING:
    import onnx_ir as ir


@dataclass(frozen=True)
class Graphs:
    """The intermediate graphs of an export.

    Attributes:
        converted: the converted graph, with its batch norms; NHWC.
        folded: the graph before it got its final types: batch norms folded and, for INT8 and FP8,
            as it was calibrated; in the artifact's layout.
        same: whether ``folded`` is the artifact's own.
        check: how that was checked, and what differs.
    """

    converted: bytes
    folded: bytes
    same: bool
    check: str

    def as_json(self) -> dict[str, Any]:
        """Return the result of the comparison."""
        return {"same_as_artefact": self.same, "check": self.check}


def remake(artifact: Artifact, source: Source) -> Graphs:
    """Convert and fold again, as the export did, and compare with the artifact's graph.

    Raises:
        ConversionError: the source can't be converted any more.
        ExporterError: the hash of a file does not match the passport.
    """
    from exporter import pipeline
    from exporter.artifact import serialize
    from exporter.network import frontend
    from exporter.precision import measure, recovery

    passport = artifact.passport
    model = frontend.to_onnx(source, fixed_batch(artifact))
    converted = serialize.checked_bytes(model)
    pipeline.run_passes(model, passport["layout"])
    if found := artifact.quantization:
        measure.prepare(model)
        recovery.before_calibration(model, found["recovery"])
    folded = serialize.checked_bytes(model)
    how = next(check for key, check in _CHECKS if key is None or key in passport)
    differs = how.differs(artifact, model, folded)
    if differs is None:
        return Graphs(converted, folded, True, f"the same as the artifact's, by {how.by}")
    return Graphs(converted, folded, False, f"not the artifact's: {differs}{_versions(passport)}")


@dataclass(frozen=True)
class _Check:
    """One way to compare; ``differs`` returns None if nothing differs."""

    by: str
    differs: Callable[[Artifact, ir.Model, bytes], str | None]


def _calibrated(artifact: Artifact, model: ir.Model, _: bytes) -> str | None:
    from exporter.precision.measure import graph_hash

    recorded = json.loads(artifact.file(CALIBRATION).read_text())["graph"]
    if recorded == graph_hash(model):
        return None
    return "its hash differs from that of the calibrated graph"


def _weights(artifact: Artifact, model: ir.Model, _: bytes) -> str | None:
    """Compare constants by name. Giving types keeps their names but rounds their values."""
    import onnx

    here = model.graph.initializers
    for one in onnx.load(artifact.file(MODEL)).graph.initializer:
        value = here.get(one.name)
        if value is None or value.const_value is None:
            continue
        written, made = onnx.numpy_helper.to_array(one), value.const_value.numpy()
        if not np.array_equal(made.astype(written.dtype), written):
            return f"constant {one.name!r} has other values"
    return None


def _bytes(artifact: Artifact, _: ir.Model, folded: bytes) -> str | None:
    artifact.file(MODEL)
    if hashlib.sha256(folded).hexdigest() == artifact.passport["files"][MODEL]["sha256"]:
        return None
    return f"its bytes differ from {MODEL}"


# The first one whose key is in the passport applies.
_CHECKS: tuple[tuple[str | None, _Check], ...] = (
    *((name, _Check("the hash in calibration.json", _calibrated)) for name in QUANTIZED),
    ("fp16", _Check("its constants, rounded to the artifact's types", _weights)),
    (None, _Check("its bytes", _bytes)),
)


def _versions(passport: dict[str, Any]) -> str:
    """Name the packages whose version differs from the one that made the artifact."""
    from exporter.artifact.passport import versions

    then, now = passport.get("versions", {}), versions()
    differ = [
        f"{name} {then[name]} then, {now[name]} now"
        for name in ("keras", "tensorflow", "tensorflow-cpu", "tf2onnx", "onnx", "onnx-ir")
        if name in then and name in now and then[name] != now[name]
    ]
    return f" ({'; '.join(differ)})" if differ else ""
