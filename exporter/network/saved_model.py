"""SavedModel folders: TensorFlow programs with one entry that is used here."""

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
        A function from a tuple of tensors to a tuple of tensors; the specs of both by name,
        in that order; and the restored object, which must live as long as the function.

    Raises:
        ExporterError: TensorFlow can't load it.
        WrongUse: it lacks the signature, or takes something other than dense numbers.
    """
    load_keras()
    import tensorflow as tf

    try:
        restored = tf.saved_model.load(str(path))
    except Exception as error:  # TensorFlow raises its own, untyped errors on damage
        raise ExporterError(f"TensorFlow can't load {path}: {error}") from error
    signature = restored.signatures.get(SIGNATURE)
    if signature is None:
        raise WrongUse(
            f"{path} has no signature {SIGNATURE!r}",
            hint="write the folder with model.export(path)",
        )
    inputs = dict(signature.structured_input_signature[1])
    outputs = dict(sorted(signature.structured_outputs.items(), key=_by_number))
    for name, spec in [*inputs.items(), *outputs.items()]:
        numeric = spec.dtype.is_floating or spec.dtype.is_integer or spec.dtype.is_bool
        if spec.shape.rank is None or not numeric:
            raise WrongUse(f"{path}: {name!r} is {spec.dtype.name} {spec.shape}, not an array")

    def call(given: tuple[Any, ...]) -> tuple[Any, ...]:
        results = signature(**dict(zip(inputs, given, strict=True)))
        return tuple(results[key] for key in outputs)

    return call, inputs, outputs, restored


def sha256(path: Path) -> str:
    """Hash names and contents of all files below a folder."""
    digest = hashlib.sha256()
    for file in sorted(f for f in path.rglob("*") if f.is_file()):
        digest.update(str(file.relative_to(path)).encode() + b"\0")
        digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()


def _by_number(item: tuple[str, Any]) -> list[Any]:
    """Sort ``output_10`` behind ``output_2``."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", item[0])]
