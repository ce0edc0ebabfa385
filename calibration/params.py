"""A calibration as a file: every tensor's range, and the data it was measured on."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from calibration import convergence
from calibration.convergence import Snapshot
from calibration.errors import CalibrationError, DamagedParams, WrongParams
from calibration.formats import E4M3_LARGEST, Kind
from calibration.observers import DEFAULT_PERCENTILE, Histogram, find_range
from calibration.scales import affine_scale_zero_point, symmetric_scale
from calibration.whole_file import write_whole

FORMAT = 1


@dataclass(frozen=True)
class TensorParams:
    """One tensor's range for each kind of format, and the statistics it came from.

    Attributes:
        amax: the symmetric scheme represents [-amax, amax].
        low: start of the affine scheme's range, at most 0.
        high: end of the affine scheme's range, at least 0.
        minimum: exact minimum of all values.
        maximum: exact maximum of all values.
        mean: mean of all values, within the histogram's bin width.
        count: number of values.
        clipped: share of values outside [-amax, amax], 0 to 1.
        clipped_affine: share of values outside [low, high], 0 to 1.
        amax_e4m3: FP8 represents [-amax_e4m3, amax_e4m3]; None in a calibration for INT8.
    """

    amax: float
    low: float
    high: float
    minimum: float
    maximum: float
    mean: float
    count: int
    clipped: float
    clipped_affine: float
    amax_e4m3: float | None = None

    @property
    def scale(self) -> np.float32:
        """The symmetric INT8 scale; its zero point is 0."""
        scale: np.float32 = np.float32(symmetric_scale(self.amax))
        return scale

    @property
    def affine(self) -> tuple[np.float32, np.uint8]:
        """The UINT8 scale and zero point."""
        return affine_scale_zero_point(self.low, self.high)

    @property
    def scale_e4m3(self) -> np.float32 | None:
        """The FP8 scale; it has no zero point."""
        if self.amax_e4m3 is None:
            return None
        scale: np.float32 = np.float32(symmetric_scale(self.amax_e4m3, levels=E4M3_LARGEST))
        return scale

    def range_for(self, kind: Kind) -> tuple[float, float] | None:
        """Return (low, high) to represent; None if there is no range of that kind."""
        if kind == "affine":
            return self.low, self.high
        amax = self.amax if kind == "symmetric" else self.amax_e4m3
        return None if amax is None else (-amax, amax)


@dataclass(frozen=True)
class Params:
    """A whole calibration.

    Attributes:
        tensors: parameters by tensor name.
        method: the calibrator's name.
        percentile: share of values to keep, in percent; only the percentile method uses it.
        images: how many images it was measured on.
        graph: hash of the tapped graph, as the caller makes it.
        data: hash of the calibration images.
        preprocessing: hash or name of their preprocessing.
        stopped_early: whether the pass stopped before the last image because the ranges settled.
        convergence: the ranges at 16 images, at each doubling, and at the end.
    """

    tensors: dict[str, TensorParams]
    method: str
    percentile: float
    images: int
    graph: str
    data: str
    preprocessing: str
    stopped_early: bool = False
    convergence: tuple[Snapshot, ...] = ()

    def check(self, *, graph: str, preprocessing: str) -> None:
        """Check that it was measured on this graph and with this preprocessing.

        Raises:
            WrongParams: one of the two differs. The message names it and both values.
        """
        pairs = {"graph": (self.graph, graph), "preprocessing": (self.preprocessing, preprocessing)}
        differ = [f"{what} is {old}, not {new}" for what, (old, new) in pairs.items() if old != new]
        if differ:
            raise WrongParams(
                f"the calibration doesn't match this network: its {'; its '.join(differ)}",
                hint="calibrate again, or use the graph and preprocessing that it was made for",
            )

    def ranges(self, kind: Kind) -> dict[str, tuple[float, float]]:
        """Return (low, high) by tensor.

        Raises:
            WrongParams: a tensor has no range of that kind.
        """
        found = {name: tensor.range_for(kind) for name, tensor in self.tensors.items()}
        known = {name: one for name, one in found.items() if one is not None}
        if len(known) < len(found):
            raise WrongParams(
                "this calibration was made for INT8 and has no ranges for FP8",
                hint="calibrate again with --precision fp8",
            )
        return known

    def save(self, path: Path) -> None:
        """Write the calibration as JSON; if that fails, leave no partial file."""
        text = json.dumps(self._to_json(), indent=2, allow_nan=False) + "\n"
        write_whole(path, text)

    def _to_json(self) -> dict[str, Any]:
        head = {field.name: getattr(self, field.name) for field in fields(self)[1:]}
        tensors = {name: _known(asdict(one)) | _scales(one) for name, one in self.tensors.items()}
        head["convergence"] = convergence.to_json(self.convergence)
        return {"format": FORMAT, **head, "tensors": tensors}


def calibrate(
    histograms: Mapping[str, Histogram],
    method: str,
    *,
    images: int,
    graph: str,
    data: str,
    preprocessing: str,
    kind: Kind = "symmetric",
    percentile: float = DEFAULT_PERCENTILE,
    stopped_early: bool = False,
    snapshots: Sequence[Snapshot] = (),
) -> Params:
    """Choose every tensor's range for both schemes of INT8 and, if requested, for FP8.

    Args:
        histograms: by tensor, as ``collect`` returns them.
        method: a name in ``calibration.observers.CALIBRATORS``.
        images: how many were observed.
        graph: hash of the graph.
        data: hash of the images.
        preprocessing: hash or name of the preprocessing.
        kind: "e4m3" adds a range for FP8.
        percentile: see ``find_range``.
        stopped_early: whether ``collect`` stopped early.
        snapshots: the convergence that ``collect`` recorded.

    Raises:
        NoData: a histogram is empty.
        WrongRequest: the method is unknown or the percentile is bad.
    """
    tensors = {
        name: _tensor_params(histogram, method, percentile, fp8=kind == "e4m3")
        for name, histogram in histograms.items()
    }
    return Params(
        tensors,
        method,
        percentile,
        images,
        graph,
        data,
        preprocessing,
        stopped_early,
        tuple(snapshots),
    )


def load(path: Path) -> Params:
    """Read a calibration.

    Raises:
        CalibrationError: the file can't be opened.
        DamagedParams: the file is not JSON, a field is missing or has the wrong type, a scale
            doesn't match its range, or the format is newer than this program.
    """
    try:
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise CalibrationError(f"can't read {path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise _damaged(path, f"it is not JSON: {error}") from error
    _check_format(path, content)
    try:
        return _from_json(content)
    except KeyError as error:
        raise _damaged(path, f"it has no {error.args[0]!r}") from error
    except (CalibrationError, TypeError, ValueError, OverflowError, AttributeError) as error:
        raise _damaged(path, str(error)) from error


def _tensor_params(
    histogram: Histogram, method: str, percentile: float, *, fp8: bool
) -> TensorParams:
    amax = find_range(histogram, method, "symmetric", percentile=percentile).amax
    affine = find_range(histogram, method, "affine", percentile=percentile)
    e4m3 = find_range(histogram, method, "e4m3", percentile=percentile).amax if fp8 else None
    return TensorParams(
        amax=amax,
        low=affine.low,
        high=affine.high,
        minimum=histogram.low,
        maximum=histogram.high,
        mean=histogram.mean,
        count=histogram.count,
        clipped=histogram.share_outside(-amax, amax),
        clipped_affine=histogram.share_outside(affine.low, affine.high),
        amax_e4m3=e4m3,
    )


def _known(fields_of_tensor: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields_of_tensor.items() if value is not None}


def _scales(one: TensorParams) -> dict[str, float | int]:
    scale, zero_point = one.affine
    fp8 = one.scale_e4m3
    return {
        "scale": float(one.scale),
        "affine_scale": float(scale),
        "affine_zero_point": int(zero_point),
        **({} if fp8 is None else {"scale_e4m3": float(fp8)}),
    }


def _check_format(path: Path, content: Any) -> None:
    number = content.get("format") if isinstance(content, dict) else None
    if not isinstance(number, int) or isinstance(number, bool) or number < 1:
        raise _damaged(path, "it has no format number")
    if number > FORMAT:
        raise DamagedParams(
            f"{path} has format {number}, but this program reads only up to format {FORMAT}",
            hint="update this program, or calibrate again",
        )


def _from_json(content: dict[str, Any]) -> Params:
    tensors = {name: _tensor_from_json(name, one) for name, one in content["tensors"].items()}
    return Params(
        tensors=tensors,
        method=_text(content, "method"),
        percentile=_percent(content, "percentile"),
        images=_whole(content, "images"),
        graph=_text(content, "graph"),
        data=_text(content, "data"),
        preprocessing=_text(content, "preprocessing"),
        stopped_early=_flag(content, "stopped_early"),
        convergence=convergence.from_json(content["convergence"]),
    )


def _tensor_from_json(name: str, one: dict[str, Any]) -> TensorParams:
    names = [field.name for field in fields(TensorParams) if field.name != "count"]
    absent = one.get("amax_e4m3") is None
    numbers = {name: _number(one, name) for name in names if not (absent and name == "amax_e4m3")}
    tensor = TensorParams(**numbers, count=_whole(one, "count"))
    for key, derived in _scales(tensor).items():
        if _number(one, key) != derived:
            raise ValueError(f"the {key} of {name!r} doesn't match its range")
    return tensor


def _number(content: dict[str, Any], key: str) -> float:
    value = content[key]
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{key!r} is not a finite number")
    return float(value)


def _percent(content: dict[str, Any], key: str) -> float:
    value = _number(content, key)
    if not 0 < value <= 100:
        raise ValueError(f"{key!r} is not a percentage over 0 and up to 100")
    return value


def _whole(content: dict[str, Any], key: str) -> int:
    value = content[key]
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value < 2**63:
        raise ValueError(f"{key!r} is not a positive whole number")
    return value


def _flag(content: dict[str, Any], key: str) -> bool:
    value = content[key]
    if not isinstance(value, bool):
        raise ValueError(f"{key!r} is not true or false")
    return value


def _text(content: dict[str, Any], key: str) -> str:
    value = content[key]
    if not isinstance(value, str):
        raise ValueError(f"{key!r} is not text")
    return value


def _damaged(path: Path, why: str) -> DamagedParams:
    return DamagedParams(f"{path} is not a usable calibration: {why}", hint="calibrate again")
