"""Load SavedModel folders: TensorFlow programs, of which we use one signature."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from exporter.errors import ExporterError, WrongUse
from exporter.network.keras_env import load_keras

SIGNATURE = "serving_default"
_OPTIMIZER = "optimizer"  # as Keras 2 writes it


def load(path: Path) -> tuple[Callable[..., Any], dict[str, Any], dict[str, Any], Any]:
    """Load a folder.

    Returns:
        A function from a tuple of tensors to a tuple of tensors; the input and output specs by
        name, in the tuples' order; and the restored object, which must outlive the function.

    Raises:
        ExporterError: TensorFlow can't load it.
        WrongUse: it has no signature or several, or an input or output isn't a dense numeric array.
    """
    load_keras()
    import tensorflow as tf

    _accept_optimizers()
    try:
        restored = tf.saved_model.load(str(path))
    except Exception as error:  # TensorFlow may raise any of its errors on a damaged folder
        raise ExporterError(f"TensorFlow can't load {path}: {error}") from error
    signature = _signature(path, restored.signatures)
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


def _signature(path: Path, signatures: Mapping[str, Any]) -> Any:
    """Choose the signature for serving; if there is none, the only one."""
    if SIGNATURE in signatures:
        return signatures[SIGNATURE]
    if len(signatures) == 1:
        return next(iter(signatures.values()))
    found = f", but {', '.join(sorted(signatures))}" if signatures else ""
    raise WrongUse(
        f"{path} has no signature {SIGNATURE!r}{found}",
        hint="save the model with model.export(path), or with tf.saved_model.save(model, path, "
        "signatures=FUNCTION)",
    )


def _accept_optimizers() -> None:
    """Let TensorFlow restore the slot variables of an optimizer of Keras 2, which is not here.

    It asks the optimizer to make them. We never use them.
    """
    import tensorflow as tf

    load = tf.__internal__.saved_model.load
    if _OPTIMIZER in load.registered_identifiers():
        return  # by Keras 2 itself

    class Optimizer(tf.__internal__.tracking.AutoTrackable):  # type: ignore[misc]
        def add_slot(self, var: Any, slot_name: str) -> Any:
            del slot_name
            return tf.Variable(tf.zeros_like(var), trainable=False)

    restored = load.VersionedTypeRegistration(
        object_factory=lambda proto: Optimizer(),
        version=2,
        min_producer_version=1,
        min_consumer_version=1,
    )
    load.register_revived_type(
        _OPTIMIZER, lambda found: isinstance(found, Optimizer), versions=[restored]
    )


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
