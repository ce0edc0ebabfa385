"""Open an engine with the runtime settings that its build requires."""

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

    A version-compatible plan contains its own lean runtime. That is code for this machine, and
    TensorRT refuses it unless we allow it. An engine for a DLA runs on the core that the runtime
    names, no matter which core it was built for:
    https://docs.nvidia.com/deeplearning/tensorrt/latest/_static/python-api/infer/Core/Runtime.html

    Args:
        trt: the module ``tensorrt`` or ``tensorrt_rtx``.
        log: receives TensorRT's messages.
        version_compatible: whether the engine is version-compatible. If so, the caller must have
            checked its hash.
        dla_core: the DLA core that it was built for.

    Raises:
        Missing: TensorRT is installed but doesn't start, for example without a GPU or driver.
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
    """Deserialize an engine. This runs its code, so the caller must have checked its hash.

    Raises:
        ExporterError: it doesn't load. Contains TensorRT's reason.
    """
    engine = runtime.deserialize_cuda_engine(plan)
    if engine is None:
        raise ExporterError(
            f"{trt.__name__} {trt.__version__} can't load {name}: {last_error(log)}",
            hint="an engine fits one TensorRT release and GPU; build it here with exporter compile",
        )
    return engine


@contextlib.contextmanager
def starting(trt: Any, log: Log) -> Iterator[None]:
    """Translate the exceptions that TensorRT raises if it doesn't start.

    Raises:
        Missing: TensorRT is installed but doesn't start, for example without a GPU or driver.
    """
    try:
        yield
    except (TypeError, RuntimeError) as error:  # its bindings raise these for a null pointer
        reason = log.errors[-1] if log.errors else str(error)
        raise Missing(
            f"{trt.__name__} {trt.__version__} does not start here: {reason}",
            hint="it needs an NVIDIA GPU and driver; check with nvidia-smi",
        ) from error


def last_error(log: Log) -> str:
    """Return TensorRT's last error message."""
    return str(log.errors[-1]) if log.errors else "it gave no reason"
