"""Load SavedModel folders: TensorFlow programs, of which we use one signature."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from exporter.errors import ExporterError, WrongUse
from exporter.network.keras_env import load_keras

SIGNATURE = "serving_default"


def load(path: Path) -> tuple[Callable[..., Any], dict[str, Any], dict[str, Any], Any]:
    """Load a folder.

    Returns:
        A function from a tuple of tensors to a tuple of tensors; the input and output specs by
        name, in the tuples' order; and the restored object, which must outlive the function.

    Raises:
        ExporterError: TensorFlow can't load it.
        WrongUse: it lacks the signature, or an input or output isn't a dense numeric array.
    """
    load_keras()
    import tensorflow as tf

    try:
        restored = tf.saved_model.load(str(path))
    except Exception as error:  # TensorFlow may raise any of its errors on a damaged folder
        raise ExporterError(f"TensorFlow can't load {path}: {error}") from error
    signature = restored.signatures.get(SIGNATURE)
    if signature is None:
        raise WrongUse(
            f"{path} has no signature {SIGNATURE!r}",
            hint="save the model with model.export(path)",
        )
    inputs = dict(signature.structured_input_signature[1])
    outputs = dict(sorted(signature.structured_outputs.items(), key=_by_number))
    for name, spec in [*inputs.items(), *outputs.items()]:
        numeric = spec.dtype.is_floating or spec.dtype.is_integer or spec.dtype.is_bool
        if spec.shape.rank is None or not numeric:
            raise WrongUse(
                f"{path}: {name!r} is {spec.dtype.name} {spec.shape}, not a numeric array"
            )

    def call(given: tuple[Any, ...]) -> tuple[Any, ...]:
        results = signature(**dict(zip(inputs, given, strict=True)))
        return tuple(results[key] for key in outputs)

    return call, inputs, outputs, restored


def sha256(path: Path) -> str:
    """Hash the names and contents of all files below a folder."""
    digest = hashlib.sha256()
    for file in sorted(f for f in path.rglob("*") if f.is_file()):
        digest.update(str(file.relative_to(path)).encode() + b"\0")
        digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()


def _by_number(item: tuple[str, Any]) -> list[Any]:
    """Sort ``output_10`` after ``output_2``."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", item[0])]
