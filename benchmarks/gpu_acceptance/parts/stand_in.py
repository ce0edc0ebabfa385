"""A stand-in for TensorRT whose engine launches a real kernel: y = 2x + 1, over and over.

It has what :class:`exporter.targets.tensorrt_runner.EngineRunner` needs from TensorRT. So memory,
streams, events and graph capture run on real CUDA without TensorRT. Its "plan" is the number of
times that the kernel repeats its work, so a test can make it as slow as it needs.
"""

from __future__ import annotations

import ctypes
import sys
from types import ModuleType
from typing import Any

import numpy as np

__version__ = "0"
WIDTH = 1024
LARGEST = 256
_SOURCE = b"""
extern "C" __global__ void affine(const float* x, float* y, int count, int repeat) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= count) return;
    float v = 0.0f;
    for (int k = 0; k < repeat; ++k) v = fmaf(2.0f, x[i], 1.0f) + 0.0f * v;
    y[i] = v;
}
"""
_THREADS = 256


class ILogger:
    """The base class that a logger derives from."""

    INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = range(5)


class TensorIOMode:
    """Whether a tensor goes in or out."""

    INPUT, OUTPUT = "input", "output"


def nptype(dtype: Any) -> Any:
    """Return numpy's type for the engine's."""
    return np.dtype(dtype)


class Runtime:
    """Makes engines."""

    def __init__(self, log: Any) -> None:
        self._log = log

    def deserialize_cuda_engine(self, plan: bytes) -> Engine:
        """Return the engine. The plan says how often the kernel repeats its work."""
        return Engine(int(plan))


class Engine:
    """One input ``x`` and one output ``y``, (batch, 1024) float32 each, batch 1 to 256."""

    num_io_tensors = 2

    def __init__(self, repeat: int) -> None:
        self._repeat = repeat

    def get_tensor_name(self, index: int) -> str:
        """Name a tensor."""
        return "xy"[index]

    def get_tensor_mode(self, name: str) -> str:
        """Return whether it goes in or out."""
        return TensorIOMode.INPUT if name == "x" else TensorIOMode.OUTPUT

    def get_tensor_dtype(self, name: str) -> str:
        """Return its type."""
        return "float32"

    def get_tensor_shape(self, name: str) -> tuple[int, int]:
        """Return its shape. The batch size is open."""
        return (-1, WIDTH)

    def get_tensor_profile_shape(self, name: str, profile: int) -> tuple[tuple[int, int], ...]:
        """Return the smallest, the best and the largest shape."""
        return (1, WIDTH), (8, WIDTH), (LARGEST, WIDTH)

    def create_execution_context(self) -> Context:
        """Return what runs it."""
        return Context(load_kernel(), self._repeat)


class Context:
    """Launches the kernel with the addresses and the shape that were set."""

    def __init__(self, kernel: Any, repeat: int) -> None:
        self._kernel, self._repeat = kernel, repeat
        self._addresses: dict[str, int] = {}
        self._batch = 1

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        """Take the batch size."""
        self._batch = shape[0]
        return True

    def get_tensor_shape(self, name: str) -> tuple[int, int]:
        """Return a tensor's shape at the current batch size."""
        return (self._batch, WIDTH)

    def set_tensor_address(self, name: str, address: int) -> None:
        """Take a tensor's address on the GPU."""
        self._addresses[name] = address

    def execute_async_v3(self, stream: int) -> bool:
        """Enqueue the kernel."""
        from cuda.bindings import driver

        count = self._batch * WIDTH
        values = (self._addresses["x"], self._addresses["y"], count, self._repeat)
        types = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int, ctypes.c_int)
        blocks = -(-count // _THREADS)
        (status,) = driver.cuLaunchKernel(
            self._kernel, blocks, 1, 1, _THREADS, 1, 1, 0, stream, (values, types), 0
        )
        return bool(status == driver.CUresult.CUDA_SUCCESS)


def load_kernel() -> Any:
    """Compile the kernel for the GPU in use and load it.

    Raises:
        RuntimeError: CUDA's compiler or driver refuses it.
    """
    from cuda.bindings import driver, nvrtc, runtime

    _, device = runtime.cudaGetDevice()
    _, found = runtime.cudaGetDeviceProperties(device)
    runtime.cudaFree(0)  # makes the context that the driver's calls below need
    status, program = nvrtc.nvrtcCreateProgram(_SOURCE, b"affine.cu", 0, [], [])
    _succeed(status)
    architecture = f"--gpu-architecture=sm_{found.major}{found.minor}".encode()
    _succeed(*nvrtc.nvrtcCompileProgram(program, 1, [architecture]))
    status, size = nvrtc.nvrtcGetCUBINSize(program)
    _succeed(status)
    code = b" " * size
    _succeed(*nvrtc.nvrtcGetCUBIN(program, code))
    status, module = driver.cuModuleLoadData(code)
    _succeed(status)
    status, kernel = driver.cuModuleGetFunction(module, b"affine")
    _succeed(status)
    return kernel


def _succeed(status: Any) -> None:
    if int(status):
        raise RuntimeError(f"CUDA refuses the kernel: {status}")


def as_module() -> ModuleType:
    """Return the stand-in as the module that a runner takes for TensorRT."""
    return sys.modules[__name__]
