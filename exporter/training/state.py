"""The state of an unfinished training run on disk, whole at every moment."""

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

# Rows of epoch, loss, train_top1, held_out_top1 (where images are held out), learning_rate
# (at the epoch's end) and seconds.
History = list[dict[str, float]]


def open_keras(keras: Any, path: Path, **options: Any) -> keras.Model:
    """Load a ``.keras`` file; whatever is wrong with it becomes one kind of error."""
    try:
        return keras.models.load_model(path, safe_mode=True, **options)
    except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile, zlib.error) as error:
        raise ExporterError(f"can't load {path}: {error}") from error


def save(model: keras.Model, state: Path, config: dict[str, Any], history: History) -> None:
    """Keep model, optimizer and history of the last finished epoch, replaced as one.

    At any moment a kill leaves ``state`` whole, or no ``state`` and a whole ``.new``;
    only whole folders are ever renamed, and deleting happens under another name.
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
    """Take a folder away at once, then delete it; a kill in between leaves only rubbish."""
    old = state.with_name(state.name + ".old")
    shutil.rmtree(old, ignore_errors=True)
    if state.is_dir():
        state.rename(old)
        shutil.rmtree(old, ignore_errors=True)


def resume(keras: Any, model: keras.Model, state: Path, config: dict[str, Any]) -> History:
    """Load an unfinished run into the model; return the history so far.

    Raises:
        WrongUse: the run has another configuration; names what differs.
        ExporterError: what is on disk is damaged.
    """
    if not state.is_dir():
        # A kill between the removal of the old checkpoint and the renaming of the new one.
        aside = state.with_name(state.name + ".new")
        if not (aside / "state.json").is_file():
            return []
        aside.rename(state)
    try:
        record = json.loads((state / "state.json").read_text())
        theirs, history = record["config"], record["history"]
    except (OSError, ValueError, KeyError) as error:
        raise ExporterError(
            f"{state} holds no readable training state: {error}", hint="delete it to start over"
        ) from error
    differing = [key for key in config if config[key] != theirs.get(key)]
    if differing:
        raise WrongUse(
            f"{state} is an unfinished run with another {', '.join(differing)}",
            hint="repeat its options to go on with it, or delete the folder to start over",
        )
    unfinished = open_keras(keras, state / "model.keras")
    model.set_weights(unfinished.get_weights())
    model.optimizer.build(model.trainable_variables)
    for mine, saved in zip(model.optimizer.variables, unfinished.optimizer.variables, strict=True):
        mine.assign(saved)
    return [dict(row) for row in history]
