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


def nvmlDeviceGetMemoryInfo(handle: int) -> SimpleNamespace:
    return SimpleNamespace(total=2**30)


def nvmlDeviceGetCudaComputeCapability(handle: int) -> tuple[int, int]:
    return 8, 7


def nvmlDeviceGetName(handle: int) -> str:
    return "Stand-in GPU"


def nvmlSystemGetDriverVersion() -> str:
    return "540.4.0"


def nvmlDeviceGetTotalEnergyConsumption(handle: int) -> int:
    raise NVMLError("not on a Jetson")
