"""The state of an unfinished training run on disk, complete at every moment."""

from __future__ import annotations

import json
import shutil
import zipfile
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from exporter.errors import ExporterError, WrongUse

if TYPE_CHECKING:
    import keras

# Each row has epoch, loss, train_top1, held_out_top1 (if images are held out), learning_rate
# (at the epoch's end) and seconds.
History = list[dict[str, float]]


def open_keras(keras: Any, path: Path, **options: Any) -> keras.Model:
    """Load a ``.keras`` file. Any problem with it becomes an ExporterError."""
    try:
        return keras.models.load_model(path, safe_mode=True, **options)
    except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile, zlib.error) as error:
        raise ExporterError(f"can't load {path}: {error}") from error


def save(model: keras.Model, state: Path, config: dict[str, Any], history: History) -> None:
    """Save the model, optimizer and history of the last finished epoch, and replace them together.

    If the process is killed, there is a complete ``state``, or no ``state`` but a complete
    ``.new``. This renames only complete folders, and renames a folder before deleting it.
    """
    aside = state.with_name(state.name + ".new")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir()
    model.save(aside / "model.keras")
    record = {"config": config, "history": history}
    (aside / "state.json.part").write_text(json.dumps(record))
    (aside / "state.json.part").rename(aside / "state.json")
    retire(state)
    aside.rename(state)


def retire(state: Path) -> None:
    """Rename a folder, then delete it. A kill in between leaves only files that nobody reads."""
    old = state.with_name(state.name + ".old")
    shutil.rmtree(old, ignore_errors=True)
    if state.is_dir():
        state.rename(old)
        shutil.rmtree(old, ignore_errors=True)


def resume(keras: Any, model: keras.Model, state: Path, config: dict[str, Any]) -> History:
    """Load an unfinished run into the model, and return its history.

    Raises:
        WrongUse: the run has another configuration. Names the fields that differ.
        ExporterError: the state on disk is damaged.
    """
    if not state.is_dir():
        # The run was killed after removing the old checkpoint, and before renaming the new one.
        aside = state.with_name(state.name + ".new")
        if not (aside / "state.json").is_file():
            return []
        aside.rename(state)
    try:
        record = json.loads((state / "state.json").read_text())
        theirs, history = record["config"], record["history"]
    except (OSError, ValueError, KeyError) as error:
        raise ExporterError(
            f"{state} has no readable training state: {error}", hint="delete it to start over"
        ) from error
    differing = [key for key in config if config[key] != theirs.get(key)]
    if differing:
        raise WrongUse(
            f"{state} is an unfinished run with different options: {', '.join(differing)}",
            hint="use the same options to resume it, or delete the folder to start over",
        )
    unfinished = open_keras(keras, state / "model.keras")
    model.set_weights(unfinished.get_weights())
    model.optimizer.build(model.trainable_variables)
    for mine, saved in zip(model.optimizer.variables, unfinished.optimizer.variables, strict=True):
        mine.assign(saved)
    return [dict(row) for row in history]
