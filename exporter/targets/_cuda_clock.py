"""A CUDA stream with events: copies to and from the GPU, and times marks on the stream."""

from __future__ import annotations

from typing import Any

import numpy.typing as npt

from exporter.errors import ExporterError
from exporter.targets.tensorrt_runner import load_cuda


class CudaClock:
    """One stream and its marks.

    Args:
        marks: number of marks.

    Attributes:
        stream: the stream's address, in the form that other libraries take.

    Raises:
        Missing: cuda-python or a driver is missing.
    """

    def __init__(self, marks: int) -> None:
        self._cuda = load_cuda()
        self._stream = self._call("cudaStreamCreate")
        self._events = [self._call("cudaEventCreate") for _ in range(marks)]
        self.stream = int(self._stream)

    def close(self) -> None:
        """Wait until the stream is idle, then free it and its events."""
        self._call("cudaStreamSynchronize", self._stream)
        for event in self._events:
            self._call("cudaEventDestroy", event)
        self._call("cudaStreamDestroy", self._stream)

    def mark(self, number: int) -> None:
        """Make the stream record the time when it reaches this point."""
        self._call("cudaEventRecord", self._events[number], self._stream)

    def between(self, first: int, second: int) -> float:
        """Wait for the second mark, and return the milliseconds between the two."""
        self._call("cudaEventSynchronize", self._events[second])
        return float(self._call("cudaEventElapsedTime", self._events[first], self._events[second]))

    def copy_in(self, address: int, array: npt.NDArray[Any]) -> None:
        """Copy an array to the GPU. Its memory is pageable, so you may change it afterwards."""
        kind = self._cuda.cudaMemcpyKind.cudaMemcpyHostToDevice
        self._copy(address, array.ctypes.data, array.nbytes, kind)

    def copy_out(self, array: npt.NDArray[Any], address: int) -> None:
        """Copy from the GPU into an array. The data is complete once you wait for a later mark."""
        kind = self._cuda.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self._copy(array.ctypes.data, address, array.nbytes, kind)

    def _copy(self, to: int, source: int, size: int, kind: Any) -> None:
        self._call("cudaMemcpyAsync", to, source, size, kind, self._stream)

    def _call(self, function: str, *arguments: Any) -> Any:
        status, *results = getattr(self._cuda, function)(*arguments)
        if status != self._cuda.cudaError_t.cudaSuccess:
            raise ExporterError(f"{function} failed: {getattr(status, 'name', status)}")
        return results[0] if results else None
