"""Make and run TensorFlow Lite's INT8: its converter with a data set, and its interpreter.

This follows https://ai.google.dev/edge/litert/models/post_training_integer_quant. Every op must
be INT8, or the conversion fails. Input and output stay float32, as in our artifacts.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from exporter.errors import ConversionError, ExporterError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from exporter.network.runner import Feeds
    from exporter.network.sources import Source


def convert(source: Source, images: npt.NDArray[np.float32], file: Path) -> None:
    """Convert a network, and write it.

    Args:
        source: the network, with one input.
        images: (n, height, width, channels), preprocessed, to calibrate on.
        file: where to write the flat buffer.

    Raises:
        ConversionError: TFLite can't convert it. The message has the first line of its reason.
    """
    import tensorflow as tf
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    port = source.inputs[0]
    spec = tf.TensorSpec((1, *port.shape[1:]), port.dtype)
    call = tf.function(lambda image: source.call((image,)), input_signature=[spec])

    def representative() -> Iterator[list[Any]]:
        for image in images:
            yield [image[None]]

    # Frozen first: the calibrator can't read variables.
    frozen = convert_variables_to_constants_v2(call.get_concrete_function())
    converter = tf.lite.TFLiteConverter.from_concrete_functions([frozen])
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = representative
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    try:
        data: bytes = converter.convert()
    except Exception as error:  # its exceptions have no common base
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ConversionError(f"TFLite can't convert the network: {reason[:300]}") from error
    file.write_bytes(data)


class TfliteRunner:
    """An interpreter with its default kernels (XNNPACK), resized for each new batch size.

    Args:
        model: the flat buffer's file.
        threads: number of the interpreter's threads.
    """

    def __init__(self, model: Path, threads: int) -> None:
        self._model = model
        self._threads = threads

    def __enter__(self) -> TfliteRunner:
        """Load the model; memory is allocated when the batch size is known.

        Raises:
            ExporterError: TFLite can't load it.
        """
        import tensorflow as tf

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it warns that it will move to its own package
            try:
                self._interpreter = tf.lite.Interpreter(str(self._model), num_threads=self._threads)
            except ValueError as error:
                raise ExporterError(f"TFLite can't load {self._model.name}: {error}") from error
        self._input = self._interpreter.get_input_details()[0]["index"]
        self._output = self._interpreter.get_output_details()[0]["index"]
        self._shape: tuple[int, ...] | None = None
        return self

    def __exit__(self, *_: object) -> None:
        """Free the interpreter."""
        del self._interpreter

    def infer(self, feeds: Feeds) -> Feeds:
        """Run one batch of the only input; the only output is returned as ``logits``."""
        (array,) = feeds.values()
        if array.shape != self._shape:
            self._interpreter.resize_tensor_input(self._input, array.shape)
            self._interpreter.allocate_tensors()
            self._shape = array.shape
        self._interpreter.set_tensor(self._input, array)
        self._interpreter.invoke()
        return {"logits": self._interpreter.get_tensor(self._output)}
