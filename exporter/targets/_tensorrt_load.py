"""Opens an engine as it was built: what a runtime must allow and where it runs."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from exporter.errors import ExporterError, Missing

if TYPE_CHECKING:
    from collections.abc import Iterator

    import tensorrt

    from exporter.targets._tensorrt_watch import Log


def start_runtime(
    trt: Any, log: Log, *, version_compatible: bool = False, dla_core: int | None = None
) -> tensorrt.Runtime:
    """Return a runtime.

    A version-compatible plan brings a lean runtime of its own, which is code for this machine
    and refused unless that is allowed; an engine for a DLA runs on the core that the runtime
    names, whatever it was built for:
    https://docs.nvidia.com/deeplearning/tensorrt/latest/_static/python-api/infer/Core/Runtime.html

    Args:
        trt: the module ``tensorrt`` or ``tensorrt_rtx``.
        log: gets its messages.
        version_compatible: whether the engine was built so; its hash must have been checked.
        dla_core: that it was built for.

    Raises:
        Missing: TensorRT is installed and does not start, as without a GPU or its driver.
    """
    with starting(trt, log):
        runtime: tensorrt.Runtime = trt.Runtime(log)
    if version_compatible:
        runtime.engine_host_code_allowed = True
    if dla_core is not None:
        runtime.DLA_core = dla_core
    return runtime


def load_engine(
    trt: Any, runtime: tensorrt.Runtime, log: Log, plan: bytes, name: str
) -> tensorrt.ICudaEngine:
    """Deserialize an engine, whose hash the caller has checked: that runs its code.

    Raises:
        ExporterError: it does not load; carries TensorRT's reason.
    """
    engine = runtime.deserialize_cuda_engine(plan)
    if engine is None:
        raise ExporterError(
            f"{trt.__name__} {trt.__version__} does not load {name}: {last_error(log)}",
            hint="engines hold for one TensorRT release and GPU: exporter compile it here",
        )
    return engine


@contextlib.contextmanager
def starting(trt: Any, log: Log) -> Iterator[None]:
    """Turn what TensorRT raises where it is installed and does not start into ours.

    Raises:
        Missing: so it is, as without a GPU or its driver.
    """
    try:
        yield
    except (TypeError, RuntimeError) as error:  # what its bindings make of a null pointer
        reason = log.errors[-1] if log.errors else str(error)
        raise Missing(
            f"{trt.__name__} {trt.__version__} does not start here: {reason}",
            hint="it needs an NVIDIA GPU and its driver: see nvidia-smi",
        ) from error


def last_error(log: Log) -> str:
    """Return what TensorRT said last of why it failed."""
    return str(log.errors[-1]) if log.errors else "it gave no reason"
