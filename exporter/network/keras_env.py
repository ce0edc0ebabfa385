"""The one place that imports Keras, so that its backend and its noise are settled first."""

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
    """Keep off standard error what TensorFlow's libraries log before their log level counts.

    File descriptor 2 is set aside for the moment; if the block fails, what was said is shown.
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
    """Have TensorFlow take of a GPU's memory what it needs, not all: TensorRT builds beside it."""
    for gpu in tf.config.list_physical_devices("GPU"):
        with contextlib.suppress(RuntimeError):  # it has started there already, on its own terms
            tf.config.experimental.set_memory_growth(gpu, True)


def load_keras(backend: str = "tensorflow") -> ModuleType:
    """Import Keras 3 on a backend.

    Conversion and evaluation trace TensorFlow graphs, so they need that backend;
    training is plain Keras and runs on any.

    Raises:
        Missing: Keras or the backend is not installed, or another backend is active.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    # Off by default in TensorFlow on CPUs without VNNI, where it still doubles convolution speed.
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
    os.environ.setdefault("KERAS_BACKEND", backend)
    try:
        with _quiet_native_code():
            if backend == "tensorflow":
                import tensorflow as tf

                share_gpus(tf)
                # The reference is float32 throughout; TF32 has 10 bits, and is on by default.
                tf.config.experimental.enable_tensor_float_32_execution(False)
                tf.zeros(())  # brings up the device, which has something to say as well
            import keras
    except ImportError as error:
        raise Missing(
            f"{error.name or 'keras'} is not installed, and this command needs it",
            hint=pip_line("cpu"),
        ) from error
    if backend == "tensorflow" and keras.backend.backend() != backend:
        raise Missing(
            f"Keras runs on {keras.backend.backend()!r} here; export and evaluate need tensorflow",
            hint="unset KERAS_BACKEND, and remove it from ~/.keras/keras.json",
        )
    module: ModuleType = keras
    return module
