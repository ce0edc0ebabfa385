"""The baseline file: the accepted state of artifacts, and how much may change.

It is JSON with one line per layer and range, so that diffs are readable. Predicted labels are
packed, about 6 kB for 10,000 images. There is one entry per artifact, by its key.
"""

from __future__ import annotations

import base64
import json
import math
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.gate.facts import Facts, Labels, Run
from benchmarks.gate.figures import FIGURES, Tolerance
from benchmarks.gate.verdict import drifted, judge
from calibration.whole_file import write_whole
from exporter.errors import ExporterError, Missing, WrongUse
from exporter.untrusted import read_json_file

FORMAT = 1
_MOST_BYTES = 16_000_000
_MOST_IMAGES = 10_000_000
_DAMAGE = (KeyError, TypeError, ValueError, AttributeError, zlib.error)


def default_tolerances() -> dict[str, Tolerance]:
    """Return the tolerances of a new baseline."""
    return {name: figure.default for name, figure in FIGURES.items()}


@dataclass(frozen=True)
class Baseline:
    """Entries by key, and the tolerances that apply to all of them."""

    entries: dict[str, Facts] = field(default_factory=dict)
    tolerances: dict[str, Tolerance] = field(default_factory=default_tolerances)

    def entry(self, now: Facts, path: Path) -> Facts:
        """Return the entry to compare an artifact with.

        Raises:
            Missing: there is no entry. The message lists the existing ones.
            WrongUse: the entry belongs to another model of the same name.
        """
        found = self.entries.get(now.key)
        if found is None:
            raise Missing(f"{path} has no baseline for {now.key}: {self._nearest(now.key)}")
        if found.network != now.network and found.source != now.source:
            raise WrongUse(
                f"{path} has another model under the name {now.key}: "
                f"its inputs and outputs are {found.network}, not {now.network}",
                hint="use this model's own baseline; --update would replace the other entry",
            )
        return found

    def _nearest(self, key: str) -> str:
        others = list(self.entries)
        model, _, rest = key.partition("/")
        kin = [other for other in others if other.rpartition("/")[0] == key.rpartition("/")[0]]
        if rest and kin and key.endswith("-bit"):
            return (
                f"it has {', '.join(kin)}, from a CPU with other integer instructions (7-bit "
                "weights are for CPUs without VNNI). Export with --weight-bits, or add one with "
                "--update"
            )
        if not any(other.startswith(f"{model}/") for other in others):
            return f"it is for other models ({', '.join(others) or 'none'}). Add it with --update"
        return f"it has {', '.join(others)}. Add this one with --update"

    def updated(self, now: Facts) -> Baseline:
        """Replace an artifact's entry with its facts.

        If nothing that could be compared has changed, keep what could not be measured here from
        the old entry: a machine without a GPU must not drop the GPU's measurements.

        Raises:
            ExporterError: its logits are not finite.
        """
        for run in now.runs.values():
            if not math.isfinite(run.mean_abs_error + run.max_relative_error):
                raise ExporterError(
                    f"{now.key} can't become a baseline: its logits have NaN or infinite values"
                )
        old = self.entries.get(now.key)
        if old is not None and not drifted(judge(old, now, self.tolerances)):
            now = replace(
                now,
                fused=now.fused if now.fused is not None else old.fused,
                latency_ratio=now.latency_ratio or old.latency_ratio,
                files={**old.files, **now.files},
                runs={**old.runs, **now.runs},
            )
        return replace(self, entries=dict(sorted({**self.entries, now.key: now}.items())))


def load(path: Path) -> Baseline:
    """Read a baseline.

    Raises:
        Missing: there is none yet.
        ExporterError: it is damaged, or has a newer format.
    """
    if not path.exists():
        raise Missing(
            f"there is no baseline yet: {path} doesn't exist",
            hint=f"review the artifacts, then create it: "
            f"exporter check --baseline {path} --update ARTIFACT... --data DATA",
        )
    content = read_json_file(path, "a baseline of exporter check", most_bytes=_MOST_BYTES)
    number = content.get("format") if isinstance(content, dict) else None
    if type(number) is int and number > FORMAT:
        raise ExporterError(
            f"{path} has format {number}, but this version reads only up to format {FORMAT}",
            hint="use the version of exporter that wrote it, or make it again with --update",
        )
    try:
        if type(number) is not int or number < 1:
            raise ValueError("it has no format number")
        return Baseline(
            {key: _entry(key, one) for key, one in content["entries"].items()},
            _tolerances(content["tolerances"]),
        )
    except _DAMAGE as error:
        said = f"it has no {error}" if isinstance(error, KeyError) else str(error)
        raise ExporterError(
            f"{path} is damaged: {said}",
            hint="restore it from version control, or delete it and make it with --update",
        ) from error


def save(baseline: Baseline, path: Path) -> None:
    """Write a baseline atomically."""
    content = {
        "format": FORMAT,
        "tolerances": {name: asdict(one) for name, one in baseline.tolerances.items()},
        "entries": {key: _entry_json(one) for key, one in baseline.entries.items()},
    }
    write_whole(path, _readable(content) + "\n")


def _readable(value: Any, depth: int = 0) -> str:
    """Write JSON with each object of plain values on one line."""
    parts = value.values() if isinstance(value, Mapping) else ()
    if not any(isinstance(part, (Mapping, list, tuple)) for part in parts):
        return json.dumps(value, allow_nan=False)
    pad = " " * (depth + 1)
    lines = [f"{pad}{json.dumps(key)}: {_readable(part, depth + 1)}" for key, part in value.items()]
    return "{\n" + ",\n".join(lines) + "\n" + " " * depth + "}"


def _tolerances(content: dict[str, Any]) -> dict[str, Tolerance]:
    """Read the tolerances: one per figure, no unknown figures, each with a reason."""
    if unknown := sorted(content.keys() - FIGURES.keys()):
        raise ValueError(f"tolerances of unknown figures: {', '.join(unknown)}")
    found = {}
    for name in FIGURES:
        within, why = content[name]["within"], content[name]["why"]
        number = isinstance(within, (int, float)) and not isinstance(within, bool)
        if not number or not math.isfinite(within) or within < 0:
            raise ValueError(f"the tolerance of {name!r} is not a number of 0 or more: {within!r}")
        if not isinstance(why, str) or not why.strip():
            raise ValueError(f"the tolerance of {name!r} has no reason")
        found[name] = Tolerance(within, why)
    return found


def _entry_json(facts: Facts) -> dict[str, Any]:
    values = {one.name: getattr(facts, one.name) for one in fields(facts)[1:]}
    return values | {"runs": {kind: _run_json(run) for kind, run in facts.runs.items()}}


def _run_json(run: Run) -> dict[str, Any]:
    return {
        "data": run.data,
        "data_sha256": run.data_sha256,
        "runtime": run.runtime,
        "images": len(run.predicted),
        "mean_abs_error": run.mean_abs_error,
        "max_relative_error": run.max_relative_error,
        "predicted": _pack(run.predicted),
        # Nearly all zeros, which compress to almost nothing.
        "keras_less_predicted": _pack(run.keras - run.predicted),
    }


def _entry(key: str, content: dict[str, Any]) -> Facts:
    values = {one.name: content[one.name] for one in fields(Facts)[1:]}
    for name, kind in _KINDS.items():
        if not isinstance(values[name], kind):
            raise ValueError(f"{name!r} of {key} is not of type {kind.__name__}")
    ranges = {name: (float(low), float(high)) for name, (low, high) in values["ranges"].items()}
    runs = {kind: _run(run) for kind, run in values["runs"].items()}
    return Facts(**{**values, "key": key, "ranges": ranges, "runs": runs})


_KINDS: dict[str, type] = {
    "source": str,
    "network": str,
    "setting": dict,
    "folded": int,
    "unfolded": dict,
    "ops": dict,
    "layers": dict,
    "ranges": dict,
    "warnings": list,
    "files": dict,
    "runs": dict,
}


def _run(content: dict[str, Any]) -> Run:
    images = content["images"]
    if type(images) is not int or not 0 < images <= _MOST_IMAGES:
        raise ValueError(f"not a count of images: {images!r}")
    predicted = _unpack(content["predicted"], images)
    return Run(
        data=str(content["data"]),
        data_sha256=str(content["data_sha256"]),
        runtime=str(content["runtime"]),
        predicted=predicted,
        keras=predicted + _unpack(content["keras_less_predicted"], images),
        mean_abs_error=float(content["mean_abs_error"]),
        max_relative_error=float(content["max_relative_error"]),
    )


def _pack(labels: Labels) -> str:
    """Compress labels, as int8 if they fit."""
    narrow = labels.astype("<i1" if np.abs(labels).max(initial=0) < 128 else "<i4")
    return (
        f"{narrow.dtype.itemsize}:{base64.b64encode(zlib.compress(narrow.tobytes(), 9)).decode()}"
    )


def _unpack(text: str, images: int) -> Labels:
    width, _, packed = text.partition(":")
    unpacker = zlib.decompressobj()
    most = images * int(width)
    content = unpacker.decompress(base64.b64decode(packed, validate=True), most + 1)
    if len(content) != most or not unpacker.eof:
        raise ValueError(f"not the labels of {images} images")
    return np.frombuffer(content, f"<i{int(width)}").astype(np.int64)
