"""The only place that imports Keras, so that its backend and its log noise are set up first."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator
from types import ModuleType
from typing import Any

from exporter.errors import Missing
from exporter.machine.install import pip_line


@contextlib.contextmanager
def _quiet_native_code() -> Iterator[None]:
    """Hide what TensorFlow's libraries log to standard error before their log level takes effect.

    This redirects file descriptor 2 during the block. If the block fails, the log is shown.
    """
    if os.environ["TF_CPP_MIN_LOG_LEVEL"] < "2":
        yield
        return
    sys.stderr.flush()
    stderr = os.dup(2)
    with tempfile.TemporaryFile() as said:
        os.dup2(said.fileno(), 2)
        try:
            yield
        except BaseException:
            said.seek(0)
            os.write(stderr, said.read())
            raise
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)


def share_gpus(tf: Any) -> None:
    """Make TensorFlow use only the GPU memory that it needs, as TensorRT also builds there."""
    for gpu in tf.config.list_physical_devices("GPU"):
        with contextlib.suppress(RuntimeError):  # TensorFlow already uses this GPU
            tf.config.experimental.set_memory_growth(gpu, True)


def load_keras(backend: str = "tensorflow") -> ModuleType:
    """Import Keras 3 on a backend.

    Conversion and evaluation trace TensorFlow graphs, so they need that backend. Training is
    plain Keras and runs on any backend.

    Raises:
        Missing: Keras or the backend is not installed, or another backend is active.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    # TensorFlow turns this off on CPUs without VNNI, where it still doubles convolution speed.
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
    os.environ.setdefault("KERAS_BACKEND", backend)
    try:
        with _quiet_native_code():
            if backend == "tensorflow":
                import tensorflow as tf

                share_gpus(tf)
                # The reference must be float32 throughout. TF32 has 10 bits, and is on by default.
                tf.config.experimental.enable_tensor_float_32_execution(False)
                tf.zeros(())  # initializes the device, which also logs
            import keras
    except ImportError as error:
        raise Missing(
            f"this command needs {error.name or 'keras'}, which is not installed",
            hint=pip_line("cpu"),
        ) from error
    if backend == "tensorflow" and keras.backend.backend() != backend:
        raise Missing(
            f"export and evaluate need Keras on tensorflow, but here it runs on "
            f"{keras.backend.backend()!r}",
            hint="unset KERAS_BACKEND, and remove it from ~/.keras/keras.json. For a model of "
            "this process, save it first: model.save('model.keras')",
        )
    module: ModuleType = keras
    return module
