"""The shape that every engine is used through, and the Keras original as one of them."""

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
    """A context manager that holds an engine: the same feeds in, the same logits out."""

    def __enter__(self) -> Runner:
        """Make the engine ready."""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Let the engine go."""

    def infer(self, feeds: Feeds) -> Feeds:
        """Run one batch; arrays by input name to arrays by output name."""


@dataclass(frozen=True)
class DeviceTimes:
    """One batch on a GPU, in milliseconds: by CUDA events, but for the host's own part.

    Attributes:
        copy_in: of the inputs.
        compute: of the kernels.
        copy_out: of the outputs.
        enqueue: of the host, to hand the kernels over.
    """

    copy_in: float
    compute: float
    copy_out: float
    enqueue: float


@runtime_checkable
class DeviceRunner(Protocol):
    """A runner that can time itself on its GPU.

    Attributes:
        times: of each batch since :meth:`time_batches` was called or the list emptied.
    """

    times: list[DeviceTimes]

    def time_batches(self, *, cuda_graph: bool) -> None:
        """Time every batch from now on, with a CUDA graph or without; before the engine opens."""

    @property
    def device_settings(self) -> dict[str, Any]:
        """Return all that its times depend on, for the record."""


class KerasRunner:
    """The network as it came, in inference mode, as one compiled ``tf.function``.

    ``jit_compile`` has XLA compile it, anew for each batch size.
    """

    def __init__(self, source: Source, *, jit_compile: bool = False) -> None:
        self._source = source
        self._jit_compile = jit_compile or None  # False would also forbid it inside

    def __enter__(self) -> KerasRunner:
        """Prepare the function; it is traced on the first call."""
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
    """Count the cores this process may run on, which in a container are fewer than there are."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
