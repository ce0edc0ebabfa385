"""Stands in for nvidia-ml-py: one GPU, so that code for a machine with a GPU can be reached."""

from types import SimpleNamespace


class NVMLError(Exception):
    pass


def nvmlInit() -> None: ...
def nvmlShutdown() -> None: ...


def nvmlDeviceGetCount() -> int:
    return 1


def nvmlDeviceGetHandleByIndex(index: int) -> int:
    return index


def nvmlDeviceGetPciInfo(handle: int) -> SimpleNamespace:
    return SimpleNamespace(busId=f"00000000:0{handle}:00.0")


def nvmlDeviceGetMemoryInfo(handle: int) -> SimpleNamespace:
    return SimpleNamespace(total=2**30)


def nvmlDeviceGetCudaComputeCapability(handle: int) -> tuple[int, int]:
    return 8, 7


NVML_CLOCK_SM = 1


def nvmlDeviceGetClockInfo(handle: int, kind: int) -> int:
    return {NVML_CLOCK_SM: 1410}[kind]


def nvmlDeviceGetCurrentClocksEventReasons(handle: int) -> int:
    return 0x1 | 0x4 | 0x40  # idle, power cap, hardware thermal slowdown


def nvmlDeviceGetTotalEnergyConsumption(handle: int) -> int:
    return 7500


def nvmlDeviceGetName(handle: int) -> str:
    return "Stand-in GPU"


def nvmlSystemGetDriverVersion() -> str:
    return "540.4.0"


def nvmlDeviceGetUtilizationRates(handle: int) -> SimpleNamespace:
    return SimpleNamespace(gpu=0)
