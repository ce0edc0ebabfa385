"""Read the clocks of NVIDIA GPUs at the end of a block, and the reasons for slower clocks.

nvidia-ml-py reads them. A Jetson has no NVML for its own GPU, so its clock comes from
``tegrastats`` (:func:`parse_tegrastats_clock`).
"""

from __future__ import annotations

import re
import statistics
import time
from dataclasses import dataclass
from typing import Any

from exporter.machine.gpus import bus_id_in_use, read_each

# NVML API Reference, NvmlClocksEventReasons. An idle GPU (1) and clocks set by the user (2, 100)
# don't make a run unstable.
_REASONS = {
    0x004: "power cap",
    0x008: "hardware slowdown",
    0x010: "sync boost",
    0x020: "software thermal slowdown",
    0x040: "hardware thermal slowdown",
    0x080: "power brake",
}
# Renamed in nvidia-ml-py 12.535; older packages have only the first name.
_READ_REASONS = (
    "nvmlDeviceGetCurrentClocksThrottleReasons",
    "nvmlDeviceGetCurrentClocksEventReasons",
)
_LISTEN_EVERY_S = 0.2
_TEGRA_CLOCK = re.compile(r"\bGR3D_FREQ \d+%@\[?(\d+)")


@dataclass(frozen=True)
class GpuState:
    """One GPU at one moment.

    Attributes:
        index: NVML's index.
        sm_mhz: clock of its multiprocessors.
        held_back_by: why the clock is not higher, except for idleness and user-set clocks.
    """

    index: int
    sm_mhz: float | None
    held_back_by: tuple[str, ...]


def read_gpus() -> tuple[GpuState, ...]:
    """Read the GPU that CUDA uses here, or all GPUs if it isn't known which one that is.

    The result is empty if NVML is not installed or finds no driver. Other GPUs don't matter,
    because other work may run on them.
    """
    found = read_each(lambda nvml, index: (_bus_id(nvml, index), _state(nvml, index)))
    used = bus_id_in_use() if len(found) > 1 else None
    states = [state for bus_id, state in found if used and bus_id.endswith(used)]
    return tuple(states or (state for _, state in found))


def listen(seconds: float) -> float | None:
    """Return the share of the time that the GPU in use was busy; None if unknown.

    Call it before a run begins: any work at that time belongs to other programs.
    """
    shares: list[float] = []
    end = time.monotonic() + seconds
    while not shares or time.monotonic() < end:
        found = read_each(lambda nvml, index: (_bus_id(nvml, index), _busy(nvml, index)))
        used = bus_id_in_use() if len(found) > 1 else None
        told = [share for bus_id, share in found if not used or bus_id.endswith(used)]
        known = [share for share in told if share is not None]
        if not known:
            return None
        shares.append(max(known))
        time.sleep(_LISTEN_EVERY_S)
    return statistics.fmean(shares)


def _busy(nvml: Any, index: int) -> float | None:
    """Return the share of NVML's last sampling period in which a kernel ran."""
    try:
        rates = nvml.nvmlDeviceGetUtilizationRates(nvml.nvmlDeviceGetHandleByIndex(index))
    except nvml.NVMLError:
        return None
    return float(rates.gpu) / 100


def _bus_id(nvml: Any, index: int) -> str:
    try:
        text = nvml.nvmlDeviceGetPciInfo(nvml.nvmlDeviceGetHandleByIndex(index)).busId
    except nvml.NVMLError:
        return ""
    return (text.decode() if isinstance(text, bytes) else str(text)).lower()


def _state(nvml: Any, index: int) -> GpuState:
    handle = nvml.nvmlDeviceGetHandleByIndex(index)
    try:
        mhz = float(nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_SM))
    except nvml.NVMLError:
        mhz = None
    bits = 0
    for name in _READ_REASONS:
        if (read := getattr(nvml, name, None)) is not None:
            try:
                bits = int(read(handle))
                break
            except nvml.NVMLError:
                continue
    return GpuState(index, mhz, decode_reasons(bits))


def decode_reasons(bits: int) -> tuple[str, ...]:
    """Name the bits that mean that something slowed a GPU down."""
    return tuple(reason for bit, reason in _REASONS.items() if bits & bit)


def parse_tegrastats_clock(line: str) -> float | None:
    """Return the GPU's MHz in a line of ``tegrastats``; None if its release doesn't print it.

    The line has ``GR3D_FREQ 12%@1300``, or a clock for each cluster in brackets. We take the
    first.
    """
    found = _TEGRA_CLOCK.search(line)
    return None if found is None else float(found[1])
