"""The second step of ``--to trt``: build an artifact's engine on the target machine."""

from __future__ import annotations

import datetime
import shutil
from pathlib import Path
from typing import Any

from exporter import targets
from exporter.artifact import folder as artifact
from exporter.artifact.folder import CALIBRATION, MODEL, PASSPORT, SENSITIVITY, Artifact
from exporter.config import Batch, BuildOptions
from exporter.errors import ExporterError, WrongUse
from exporter.progress import Progress, silent


def finish(
    path: Path,
    options: BuildOptions | None = None,
    *,
    force: bool = False,
    progress: Progress = silent,
) -> Artifact:
    """Compile an artifact in place. Its folder is replaced completely, or left as it was.

    This doesn't need Keras, the data or onnxruntime.

    Args:
        path: the artifact's folder.
        options: builder options. They override those that the artifact was exported with.
        force: rebuild an engine that is already built.
        progress: called with the builder's progress.

    Raises:
        WrongUse: the target has no engine or refuses an option, or the engine is already built.
        Missing: TensorRT or a GPU is missing.
        ExporterError: a file doesn't match the passport.
    """
    found = artifact.read(path)
    target = targets.lookup(found.target)
    section = found.passport.get(found.target)
    if not isinstance(section, dict) or "compiled" not in section:
        raise WrongUse(f"{path} is for {found.target!r}, which has nothing to compile")
    if section["compiled"] and not force:
        raise WrongUse(f"{path} is already compiled", hint="use --force to build it again")
    precision = found.passport["precision"]
    batch, recorded = _recorded(found, section)
    batch, options = target.bounded(batch), (options or BuildOptions()).over(recorded)
    target.check_precision(precision)
    targets.check_options(target, options)
    target.check_build(options, precision, batch)
    build = targets.Build(batch, precision, options, progress, here=True, size=found.input_size)
    compiler = target.load()
    # Resolved, so that `exporter compile .` works too.
    with artifact.writing(path.resolve(), force=True) as folder:
        for name in (MODEL, CALIBRATION, SENSITIVITY):
            if name in found.passport["files"]:
                shutil.copyfile(found.file(name), folder / name)
        compiled = compiler.compile(folder, build)
        fields = compiled.fields(found.target, compiled_at=_now())
        sealed = artifact.seal(folder, {**_kept(found), **fields})
    return Artifact(path, sealed)


def _recorded(found: Artifact, section: dict[str, Any]) -> tuple[Batch, BuildOptions]:
    """Return the batch sizes and build options that an artifact was exported with.

    Raises:
        ExporterError: the passport's values for them are damaged.
    """
    sizes = found.passport["batch"]
    try:
        batch = Batch(sizes["min"], sizes["opt"], sizes["max"])
        return batch, BuildOptions.from_json(section.get("options", {}))
    except (AttributeError, KeyError, TypeError) as error:
        raise ExporterError(
            f"{found.path / PASSPORT} is damaged: {error}", hint="export it again"
        ) from error


def _kept(found: Artifact) -> dict[str, Any]:
    """Return the fields that stay valid. Measurements belong to the engine that is replaced."""
    return {name: value for name, value in found.passport.items() if name != "measured"}


def _now() -> str:
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
