"""What TensorRT tells while it works: its log, its progress, and the way to stop it.

TensorRT calls back into classes that derive from its own, so these can only be made once one
of its modules is imported; ``trt`` is ``tensorrt`` or ``tensorrt_rtx``.
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
    """How far nested phases are as a whole: each step of a phase holds its inner phases."""

    def __init__(self) -> None:
        self._open: dict[str, list[int]] = {}
        self._best = 0

    def start(self, name: str, steps: int) -> None:
        """Open a phase inside those that are open."""
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
        """The phase being worked on."""
        return next(reversed(self._open), "")

    @property
    def percent(self) -> int:
        """0 to 99, never falling: phases in parallel would otherwise make it jump."""
        share, width = 0.0, 1.0
        for done, steps in self._open.values():
            share += width * min(done, steps) / steps
            width /= steps
        self._best = max(self._best, min(int(100 * share), 99))
        return self._best


class Log(Protocol):
    """What is kept of TensorRT's log."""

    warnings: list[str]
    errors: list[str]


def make_log(trt: Any) -> Log:
    """Return the logger that keeps warnings and errors, in order and emptied, and drops the rest.

    One a process: TensorRT keeps the first that it is given, and would ignore any other.
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
    """Make a progress monitor; once its ``stop`` is set, TensorRT ends the build.

    TensorRT may call it from several threads, and an exception must not cross its C++ code:
    what ``progress`` raises is kept in ``failure`` and stops the build.
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
    """Run ``work`` in a thread of its own, so that Ctrl-C reaches this one at once.

    Python handles signals only between its own instructions, and in the main thread: inside a
    build of minutes it would not. On Ctrl-C ``stop`` is set, and ``work`` is waited for.
    """
    with ThreadPoolExecutor(max_workers=1) as pool:
        future = pool.submit(work)
        try:
            return future.result()
        except BaseException:
            stop.set()
            raise
