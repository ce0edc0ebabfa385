"""Arguments of the Python API: turned into requests, data in memory, and progress."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from exporter.api.shown import Artifact
from exporter.artifact import folder
from exporter.config import Batch, ExportConfig, Given, InputSize
from exporter.errors import WrongUse
from exporter.progress import Progress, silent

if TYPE_CHECKING:
    from exporter.network.sources import Source


def request(
    model: Any,
    to: str | None,
    *,
    data: Any,
    preprocess: str | Callable[[Any], Any] | None,
    output: str | Path | None = None,
    batch: str | int | Batch | None = None,
    input_size: str | InputSize | None = None,
    **options: Any,
) -> tuple[ExportConfig, Source | None]:
    """Turn arguments into a request, and wrap a model in memory."""
    if to is None:
        raise WrongUse("name a target", hint="such as exporter.export(model, to='ort')")
    live = None
    named = preprocess if isinstance(preprocess, str) else None
    function = preprocess if callable(preprocess) else None
    if isinstance(model, (str, Path)):
        name = str(model)
    else:
        from exporter.network import sources

        live = sources.from_live(model, named)
        name = live.name
    config = ExportConfig(
        name,
        to,
        Path(output or f"{Path(name).stem}-{to}"),
        data=data if data is None else read_data(data, function, None),
        preprocess=None if live else named,
        batch=_batch(batch),
        input_size=InputSize.parse(input_size) if isinstance(input_size, str) else input_size,
        **options,
    )
    return config, live


def _batch(given: str | int | Batch | None) -> Batch:
    if given is None or isinstance(given, Batch):
        return given or Batch()
    return Batch.parse(str(given))


def read_data(
    given: Any, function: Callable[[Any], Any] | None, limit: int | None, *, test_only: bool = False
) -> str | Given:
    """Leave text as it is, and read anything else into memory."""
    from exporter.data.samples import gather

    if isinstance(given, str):
        if function is not None:
            raise WrongUse(
                f"a function can't preprocess {given!r}, as its images belong to no batch yet",
                hint="read the images in Python, and give them as data",
            )
        return given
    return gather(given, limit, function, test_only=test_only)


def check_function(artifact: folder.Artifact, spec: str | Given) -> None:
    """Refuse data that was prepared by another function than the artifact's."""
    recorded = (artifact.passport["preprocessing"] or {}).get("function")
    function = getattr(spec, "function", None)
    if recorded and (function is None or function.sha256 != recorded["sha256"]):
        raise WrongUse(
            f"{artifact.path} was exported with the preprocessing function {recorded['name']}, and "
            + ("none was given" if function is None else f"{function.name} differs from it"),
            hint="give the same function: preprocess=...",
        )


def several_of(given: folder.Artifact | Sequence[folder.Artifact]) -> list[folder.Artifact]:
    """Return a list, also of a single artifact."""
    return [given] if isinstance(given, folder.Artifact) else list(given)


def ours(found: folder.Artifact) -> Artifact:
    """Return an artifact that opens and shows itself."""
    return Artifact(found.path, found.passport)


@contextlib.contextmanager
def as_file(original: Any) -> Iterator[str | None]:
    """Save a model in memory for other processes; leave a path as it is."""
    if original is None or isinstance(original, (str, Path)):
        yield None if original is None else str(original)
        return
    with tempfile.TemporaryDirectory(prefix="exporter-") as place:
        path = Path(place, "original.keras")
        original.save(path)
        yield str(path)


@contextlib.contextmanager
def reporting(progress: bool | Progress) -> Iterator[Progress]:
    """Yield what reports the progress: bars for True, nothing for False, or the user's function."""
    if progress is True:
        from exporter.cli import console

        with console.progress_bars(quiet=False) as bars:
            yield bars
    else:
        yield progress or silent
