"""Watch TensorRT while it works: its log, its progress, and how to stop it.

TensorRT calls back into classes that derive from its own. So we can only create these after one
of its modules is imported. ``trt`` is ``tensorrt`` or ``tensorrt_rtx``.
"""

from __future__ import annotations

import functools
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

    from exporter.progress import Progress

T = TypeVar("T")


class Phases:
    """Overall progress of nested phases. A phase runs within one step of the phase around it."""

    def __init__(self) -> None:
        self._open: dict[str, list[int]] = {}
        self._best = 0

    def start(self, name: str, steps: int) -> None:
        """Open a phase inside the phases that are already open."""
        self._open[name] = [0, max(steps, 1)]

    def step(self, name: str) -> None:
        """Count a finished step."""
        if name in self._open:
            self._open[name][0] += 1

    def finish(self, name: str) -> None:
        """Close a phase, whether or not all of its steps were reported."""
        self._open.pop(name, None)

    @property
    def innermost(self) -> str:
        """Name of the innermost open phase."""
        return next(reversed(self._open), "")

    @property
    def percent(self) -> int:
        """Percentage from 0 to 99. It never falls, as parallel phases would make it jump."""
        share, width = 0.0, 1.0
        for done, steps in self._open.values():
            share += width * min(done, steps) / steps
            width /= steps
        self._best = max(self._best, min(int(100 * share), 99))
        return self._best


class Log(Protocol):
    """The messages that we keep of TensorRT's log."""

    warnings: list[str]
    errors: list[str]


def make_log(trt: Any) -> Log:
    """Return the process's logger, emptied. It keeps warnings and errors, and drops the rest.

    There is one logger per process, as TensorRT keeps the first one it gets and ignores others.
    """
    log = _log_of(trt)
    log.warnings, log.errors = [], []
    return log


@functools.cache
def _log_of(trt: Any) -> Log:
    class Keeping(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.warnings: list[str] = []
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.INTERNAL_ERROR, trt.ILogger.ERROR):
                self.errors.append(message)
            elif severity == trt.ILogger.WARNING and message not in self.warnings:
                self.warnings.append(message)

    return Keeping()


def make_monitor(trt: Any, progress: Progress, stage: str) -> Any:
    """Create a progress monitor. Once its ``stop`` is set, TensorRT ends the build.

    TensorRT may call it from several threads, and no exception may cross its C++ code. So if
    ``progress`` raises one, the monitor keeps it in ``failure`` and stops the build.
    """

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.stop = threading.Event()
            self.failure: BaseException | None = None
            self._phases = Phases()
            self._lock = threading.Lock()

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            with self._lock:
                self._phases.start(phase_name, num_steps)
                self._show()

        def phase_finish(self, phase_name: str) -> None:
            with self._lock:
                self._phases.finish(phase_name)

        def step_complete(self, phase_name: str, step: int) -> bool:
            with self._lock:
                self._phases.step(phase_name)
                self._show()
            return not self.stop.is_set()

        def _show(self) -> None:
            if self.stop.is_set():
                return
            try:
                progress(stage, self._phases.percent, 100, self._phases.innermost)
            except BaseException as error:
                self.failure = error
                self.stop.set()

    return Monitor()


def interruptible(work: Callable[[], T], stop: threading.Event) -> T:
    """Run ``work`` in its own thread, so that Ctrl-C reaches this thread immediately.

    Python handles signals only in the main thread, between its own instructions. During a build
    of several minutes it couldn't. On Ctrl-C this sets ``stop`` and waits for ``work`` to end.
    """
    with ThreadPoolExecutor(max_workers=1) as pool:
        future = pool.submit(work)
        try:
            return future.result()
        except BaseException:
            stop.set()
            raise
