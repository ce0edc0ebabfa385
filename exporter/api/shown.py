"""Artifacts, engines and results, which show themselves as the command line would."""

from __future__ import annotations

import contextlib
import html
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from exporter.artifact import folder
from exporter.errors import WrongUse

if TYPE_CHECKING:
    from exporter.network.runner import Runner

_WIDTH = 100


class Shown:
    """Shows itself as the command line would."""

    def _show(self) -> None:
        """Print to standard output."""
        raise NotImplementedError

    def __str__(self) -> str:
        """Return the table as text."""
        from exporter.cli import console

        return console.captured(self._show, _WIDTH)

    def __repr__(self) -> str:
        """Return the table, as a prompt shows it."""
        return str(self)

    def _repr_html_(self) -> str:
        """Return the table for a notebook. Names from files can't become markup."""
        return f"<pre style='line-height:1.2'>{html.escape(str(self))}</pre>"


@dataclass(frozen=True, repr=False)
class Artifact(Shown, folder.Artifact):
    """An exported network: a folder and its passport."""

    def open(self, threads: int | None = None) -> Engine:
        """Open the engine. Use it as a context manager, or close it.

        Raises:
            ExporterError: a file doesn't match its hash.
            Missing: its runtime, or the GPU that it needs, is not here.
        """
        return Engine(self, threads)

    def to_dict(self) -> dict[str, Any]:
        """Return the passport."""
        return dict(self.passport)

    def _show(self) -> None:
        from exporter.cli import console, passport

        console.facts(str(self.path), passport.passport_lines(self.passport))


class Engine:
    """An open engine, which takes the network's own inputs (NHWC images, already preprocessed)."""

    def __init__(self, artifact: Artifact, threads: int | None) -> None:
        from exporter import targets

        self._passport = artifact.passport
        self._stack = contextlib.ExitStack()
        self._runner: Runner = self._stack.enter_context(targets.open_artifact(artifact, threads))

    def __enter__(self) -> Engine:
        """Return the engine, which is open already."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self.close()

    def close(self) -> None:
        """Free what the engine holds."""
        self._stack.close()

    def infer(self, x: Any) -> Any:
        """Run one batch.

        Args:
            x: an array (batch, ...), or a mapping of arrays by input name if there are several.

        Returns:
            The output array, or a dictionary of arrays by output name if there are several.

        Raises:
            WrongUse: an input is missing or unknown.
        """
        import numpy as np

        from exporter.data.feeds import in_layout
        from exporter.network.runner import numpy_type

        ports = {port["name"]: port for port in self._passport["graph"]["inputs"]}
        given = dict(x) if isinstance(x, Mapping) else {next(iter(ports)): x}
        if given.keys() != ports.keys():
            raise WrongUse(
                f"the inputs are {', '.join(ports)}, but {', '.join(map(str, given))} were given",
                hint="give a dictionary of arrays by input name",
            )
        typed = {name: np.asarray(v, numpy_type(ports[name]["dtype"])) for name, v in given.items()}
        found = self._runner.infer(in_layout(typed, self._passport["layout"]))
        return next(iter(found.values())) if len(found) == 1 else found


@dataclass(frozen=True, repr=False)
class Result(Shown):
    """A measurement.

    Attributes:
        value: the typed result of the measurement, such as a list of
            :class:`benchmarks.accuracy.measure.Accuracy`.
    """

    value: Any
    as_dict: Callable[[], dict[str, Any]]
    show: Callable[[], None]

    def to_dict(self) -> dict[str, Any]:
        """Return the result as JSON values, as the command line prints it with ``--json``."""
        return self.as_dict()

    def _show(self) -> None:
        self.show()
