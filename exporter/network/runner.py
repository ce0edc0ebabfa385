"""The interface of every engine, and the Keras original as one of them."""

from __future__ import annotations

import os
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from exporter.network.sources import Source

Feeds = dict[str, npt.NDArray[Any]]


class Runner(Protocol):
    """A context manager for an engine. All engines take the same feeds."""

    def __enter__(self) -> Runner:
        """Open the engine."""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Free the engine."""

    def infer(self, feeds: Feeds) -> Feeds:
        """Run one batch. Takes arrays by input name, and returns arrays by output name."""


@dataclass(frozen=True)
class DeviceTimes:
    """Times of one batch on a GPU, in milliseconds. All but ``enqueue`` are by CUDA events.

    Attributes:
        copy_in: time to copy the inputs.
        compute: time of the kernels.
        copy_out: time to copy the outputs.
        enqueue: host time to enqueue the kernels.
    """

    copy_in: float
    compute: float
    copy_out: float
    enqueue: float


@runtime_checkable
class DeviceRunner(Protocol):
    """A runner that can time itself on its GPU.

    Attributes:
        times: time of each batch since :meth:`time_batches` was called or the list was emptied.
    """

    times: list[DeviceTimes]

    def time_batches(self, *, cuda_graph: bool) -> None:
        """Time every batch from now on, with or without a CUDA graph. Call this before opening."""

    @property
    def device_settings(self) -> dict[str, Any]:
        """All settings that its times depend on, for the record."""


class KerasRunner:
    """The original network in inference mode, as one compiled ``tf.function``.

    With ``jit_compile``, XLA compiles it, once for each batch size.
    """

    def __init__(self, source: Source, *, jit_compile: bool = False) -> None:
        self._source = source
        self._jit_compile = jit_compile or None  # False would also forbid it inside

    def __enter__(self) -> KerasRunner:
        """Create the function. It is traced on the first call."""
        import tensorflow as tf

        call = self._source.call
        specs = [tf.TensorSpec(port.shape, port.dtype) for port in self._source.inputs]
        self._function = tf.function(
            lambda *inputs: call(inputs),
            input_signature=specs,
            autograph=False,
            jit_compile=self._jit_compile,
        )
        return self

    def __exit__(self, *_: object) -> None:
        """Drop the compiled function."""
        del self._function

    def infer(self, feeds: Feeds) -> Feeds:
        """Run one batch of arrays in Keras' own layout (NHWC)."""
        results = self._function(*(feeds[port.name] for port in self._source.inputs))
        return {
            port.name: np.asarray(result)
            for port, result in zip(self._source.outputs, results, strict=True)
        }


def usable_cores() -> int:
    """Count the cores that this process may use. A container may have fewer than the machine."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def numpy_type(name: str) -> npt.DTypeLike:
    """Return numpy's type for a passport's name of an ONNX type, such as ``FLOAT``."""
    import onnx_ir as ir

    return ir.DataType[name.upper()].numpy()
