"""Load a network from a ``.keras`` or an HDF5 file.

Files aren't trusted. We load them in Keras' safe mode, and refuse a Lambda layer (which is code)
before Keras sees it, unless the user gives ``--unsafe``.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from exporter.config import Trust
from exporter.errors import ExporterError, WrongUse, first_line
from exporter.network import user_classes
from exporter.network.keras_env import load_keras
from exporter.untrusted import read_h5_config, read_json, refuse_code

SUFFIXES = (".keras", ".h5", ".hdf5")
# How Keras says that it doesn't know a class: the new format, then that of HDF5.
_UNKNOWN = re.compile(r"Could not locate \w+ '([^']+)'|Unknown \w+: '([^']+)'")
_KERAS_2 = (
    "where it was trained, save it with tf.saved_model.save(model, 'folder'), and export that "
    "folder"
)
_KERAS_2_OPS = ("TFOpLambda", "SlicingOpLambda")


def load(path: Path, trust: Trust) -> Any:
    """Load a Keras model for inference.

    Raises:
        WrongUse: the file has a Lambda layer, needs a class that is not loaded, or has no network.
        ExporterError: the file is damaged, or Keras can't load it.
    """
    zipped = path.suffix == ".keras"
    config = read_json(path, "config.json", required=True) if zipped else read_h5_config(path)
    refuse_code(path, config, unsafe=trust.unsafe)
    keras = load_keras()
    own = user_classes.load(trust.imports)
    if zipped:
        user_classes.refuse_missing(path, config, own)
    try:
        return keras.models.load_model(
            path, custom_objects=own, compile=False, safe_mode=not trust.unsafe
        )
    except Exception as error:  # layers may raise anything
        raise _explained(path, error) from error


def _explained(path: Path, error: Exception) -> ExporterError:
    if "keras.src.engine" in str(error):
        return WrongUse(f"{path} was saved by Keras 2, and Keras 3 can't load it", hint=_KERAS_2)
    found = _UNKNOWN.search(str(error))
    name = found and (found[1] or found[2])
    if name in _KERAS_2_OPS:
        return WrongUse(
            f"{path} has operations of Keras 2 ({name}) that Keras 3 can't load",
            hint=_KERAS_2,
        )
    if name:
        return WrongUse(
            f"{path} needs classes that are not part of Keras: {name}",
            hint=f"load them with --import FILE_OF_{name}.py, or --import and a module",
        )
    return ExporterError(
        f"Keras can't load {path}: {first_line(error)}",
        hint="the file is damaged, or it was saved by a version of Keras that differs too much",
    )
