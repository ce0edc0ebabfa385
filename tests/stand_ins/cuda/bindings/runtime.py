"""Stands in for cuda-python: memory of the host, and streams that do their work at once.

It keeps two of CUDA's rules that matter to us: while a stream is captured nothing runs, and
what was allocated must be freed (:data:`live` shows what was not).
"""

import ctypes
import itertools
from enum import Enum
from typing import Any

live: dict[int, Any] = {}
launched: list[str] = []
capturing: "list[Any] | None" = None
recorded: dict[int, float] = {}
ticks = itertools.count()


class cudaError_t(Enum):
    cudaSuccess = 0
    cudaErrorInvalidValue = 1
    cudaErrorMemoryAllocation = 2


class cudaMemcpyKind(Enum):
    cudaMemcpyHostToDevice = 1
    cudaMemcpyDeviceToHost = 2


class cudaStreamCaptureMode(Enum):
    cudaStreamCaptureModeThreadLocal = 1


OK = cudaError_t.cudaSuccess


def keep(thing: Any) -> int:
    live[id(thing)] = thing
    return id(thing)


def cudaRuntimeGetVersion() -> tuple[cudaError_t, int]:
    return OK, 12090


def cudaDriverGetVersion() -> tuple[cudaError_t, int]:
    return OK, 12060


def cudaGetLastError() -> tuple[cudaError_t]:
    return (OK,)


def getLocalRuntimeVersion() -> tuple[cudaError_t, int]:
    return OK, 12060


def cudaMalloc(size: int) -> tuple[cudaError_t, int]:
    buffer = ctypes.create_string_buffer(size)
    live[ctypes.addressof(buffer)] = buffer
    return OK, ctypes.addressof(buffer)


def cudaFree(address: int) -> tuple[cudaError_t]:
    return (OK if live.pop(address, None) else cudaError_t.cudaErrorInvalidValue,)


def cudaMemcpyAsync(
    to: int, source: int, size: int, kind: cudaMemcpyKind, stream: int
) -> tuple[cudaError_t]:
    device = to if kind is cudaMemcpyKind.cudaMemcpyHostToDevice else source
    if device not in live or size > len(live[device]) or capturing is not None:
        return (cudaError_t.cudaErrorInvalidValue,)
    ctypes.memmove(to, source, size)
    return (OK,)


def cudaStreamCreate() -> tuple[cudaError_t, int]:
    return OK, keep(bytearray(b"stream"))


def cudaStreamSynchronize(stream: int) -> tuple[cudaError_t]:
    return (OK,)


def cudaStreamDestroy(stream: int) -> tuple[cudaError_t]:
    del live[stream]
    return (OK,)


def cudaEventCreate() -> tuple[cudaError_t, int]:
    return OK, keep(bytearray(8))


def cudaEventRecord(event: int, stream: int) -> tuple[cudaError_t]:
    if stream not in live or capturing is not None:
        return (cudaError_t.cudaErrorInvalidValue,)
    recorded[event] = 100.0 * len(launched) + next(ticks)
    return (OK,)


def cudaEventElapsedTime(start: int, end: int) -> tuple[cudaError_t, float]:
    """Ticks of records in between, and 100 for every launch."""
    return OK, recorded[end] - recorded[start]


def cudaEventDestroy(event: int) -> tuple[cudaError_t]:
    del live[event]
    return (OK,)


def cudaStreamBeginCapture(stream: int, mode: cudaStreamCaptureMode) -> tuple[cudaError_t]:
    global capturing
    capturing = []
    return (OK,)


def cudaStreamEndCapture(stream: int) -> tuple[cudaError_t, Any]:
    global capturing
    recorded, capturing = capturing, None
    return OK, keep(recorded)


def cudaGraphInstantiate(graph: int, flags: int) -> tuple[cudaError_t, int]:
    return OK, keep(list(live[graph]))


def cudaGraphDestroy(graph: int) -> tuple[cudaError_t]:
    del live[graph]
    return (OK,)


cudaGraphExecDestroy = cudaGraphDestroy


def cudaGraphLaunch(graph: int, stream: int) -> tuple[cudaError_t]:
    for work in live[graph]:
        work()
    launched.append("graph")
    return (OK,)
