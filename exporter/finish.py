"""The second step of ``--to trt``: build the engine of an artefact on the machine it is for."""

from __future__ import annotations

import datetime
import shutil
from pathlib import Path
from typing import Any

from exporter import artifact, targets
from exporter.artifact import CALIBRATION, MODEL, Artifact
from exporter.config import Batch, BuildOptions
from exporter.errors import WrongUse
from exporter.progress import Progress, silent


def finish(
    path: Path,
    options: BuildOptions | None = None,
    *,
    force: bool = False,
    progress: Progress = silent,
) -> Artifact:
    """Compile an artefact in place: its folder is replaced whole, or left as it was.

    Needs neither Keras nor the data nor onnxruntime.

    Args:
        path: the artefact's folder.
        options: of the builder; None for those it was exported with.
        force: build again what is built.
        progress: told of the builder's work.

    Raises:
        WrongUse: its target has no engine, it is compiled, or the target refuses an option.
        Missing: TensorRT or a GPU is not here.
        ExporterError: a file is not the one its passport describes.
    """
    found = artifact.read(path)
    target = targets.lookup(found.target)
    section = found.passport.get(found.target)
    if not isinstance(section, dict) or "compiled" not in section:
        raise WrongUse(f"{path} is for {found.target!r}, which has nothing to compile")
    if section["compiled"] and not force:
        raise WrongUse(f"{path} is compiled already", hint="--force builds it again")
    if options is None:
        options = _recorded(section)
    precision, batch = found.passport["precision"], _batch(found, target)
    target.check_build(options, precision, batch)
    build = targets.Build(batch, precision, options, progress, here=True)
    compiler = target.load()
    with artifact.writing(path, force=True) as folder:
        for name in (MODEL, CALIBRATION):
            if name in found.passport["files"]:
                shutil.copyfile(found.file(name), folder / name)
        compiled = compiler.compile(folder, build)
        section = {**compiled, "compiled_at": _now()}
        sealed = artifact.seal(folder, {**_kept(found), found.target: section})
    return Artifact(path, sealed)


def _recorded(section: dict[str, Any]) -> BuildOptions:
    """Return the options an artefact was exported with; lists were tuples before JSON."""
    values: dict[str, Any] = section.get("options", {})
    if "compute_capabilities" in values:
        values = {**values, "compute_capabilities": tuple(values["compute_capabilities"])}
    return BuildOptions(**values)


def _batch(found: Artifact, target: targets.Target) -> Batch:
    sizes = found.passport["batch"]
    return target.bounded(Batch(sizes["min"], sizes["opt"], sizes["max"]))


def _kept(found: Artifact) -> dict[str, Any]:
    """Return what still holds; measurements were of the engine that is replaced."""
    return {name: value for name, value in found.passport.items() if name != "measured"}


def _now() -> str:
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
