"""One pass of the calibration images through the network, a histogram for each tapped tensor.

Memory holds two batches of activations and the histograms, however many images there are.
Histograms depend on the images alone; the record of convergence depends on their order as well,
as it must, but neither on how they are cut into batches.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from calibration.convergence import Snapshot
from calibration.errors import CalibrationError, NoData, NotFinite, WrongRequest
from calibration.formats import Kind
from calibration.images import class_balance
from calibration.observers import CALIBRATORS, Histogram, find_range
from calibration.tap import Feeds, Model, OpenSession, Session, tapped

STAGE = "calibrating"
FIRST_SNAPSHOT = 16  # images; then every doubling
STEADY = 2  # doublings in a row that must change little before ``tolerance`` stops the pass


class Progress(Protocol):
    """The same signature as ``exporter.progress.Progress``."""

    def __call__(self, stage: str, done: int, total: int, note: str = "") -> None:
        """Report ``done`` of ``total`` images."""


def silent(stage: str, done: int, total: int, note: str = "") -> None:
    """Report nothing."""


@dataclass(frozen=True)
class Options:
    """How a pass goes.

    Attributes:
        method: the calibrator that convergence is judged by; the histograms serve all.
        kind: of the ranges that convergence is judged by, likewise.
        tolerance: stop once no tensor's amax has changed by more than this share in each of two
            doublings of the images; None: use all images.
        workers: threads that count while the session computes the next batch.
    """

    method: str = "entropy"
    kind: Kind = "symmetric"
    tolerance: float | None = None
    workers: int = 2


@dataclass(frozen=True)
class Collected:
    """What a pass found.

    Attributes:
        histograms: by tensor, in the order asked for.
        images: how many were used.
        stopped_early: whether ``tolerance`` ended the pass.
        convergence: snapshots at 16 images and each doubling, and at the end.
        warnings: a line each; nothing was printed.
    """

    histograms: dict[str, Histogram]
    images: int
    stopped_early: bool
    convergence: tuple[Snapshot, ...]
    warnings: tuple[str, ...]


def collect(
    model: Model,
    tensors: Sequence[str],
    batches: Iterator[Feeds],
    *,
    images: int,
    open_session: OpenSession,
    options: Options | None = None,
    labels: npt.NDArray[np.integer[Any]] | None = None,
    classes: int | None = None,
    progress: Progress = silent,
) -> Collected:
    """Measure the named activations on calibration images.

    Args:
        model: the graph to quantize; left as it is.
        tensors: names of graph inputs or computed tensors, with the batch as their first axis.
        batches: feeds by input name, the images along each array's first axis, preprocessed as
            for inference. Read no further than needed.
        images: how many to use; of the last batch only as many as are missing are counted.
        open_session: makes a session of a serialized graph (``onnxruntime.InferenceSession``
            itself will do), so that this package needs no runtime. Called once. A session whose
            threads don't spin leaves more of the processor to the counting.
        options: method, early stop, threads.
        labels: of the images in the order they come, shape (at least ``images``,); the class
            balance of those used is then judged.
        classes: how many classes there are; None: one more than the greatest label.
        progress: called after each batch.

    Raises:
        NoData: no batch came, or the batches held fewer than ``images``.
        NotFinite: an activation is NaN or infinite; names the tensor and the image.
        WrongRequest: an unknown tensor or method, no images asked for, too few labels, or
            batches whose arrays disagree on how many images there are.
        CalibrationError: a tensor's first axis is not the batch.
    """
    options = options or Options()
    _refuse_nonsense(images, options, labels)
    graph, names = tapped(model, tensors)
    session = open_session(graph)
    histograms = {name: Histogram() for name in tensors}
    with ThreadPoolExecutor(options.workers, "observe") as pool:
        seen = _Pass(histograms, options, pool)
        for feeds, size, wanted in _counted(batches, images):
            activations = _infer(session, names, feeds)
            _refuse_other_axes(tensors, feeds | activations, size)
            seen.add({name: (feeds | activations)[name][:wanted] for name in tensors}, wanted)
            total = seen.images if seen.stopped else images
            progress(STAGE, seen.images, total, seen.note())
            if seen.stopped:
                break
        seen.finish()
    return Collected(
        histograms=histograms,
        images=seen.images,
        stopped_early=seen.images < images,
        convergence=tuple(seen.snapshots),
        warnings=_balance_warnings(labels, classes, seen.images),
    )


class _Pass:
    """The state of a pass: histograms that worker threads fill, and what they said so far."""

    def __init__(
        self, histograms: dict[str, Histogram], options: Options, pool: ThreadPoolExecutor
    ) -> None:
        self.images = 0
        self.snapshots: list[Snapshot] = []
        self.stopped = False
        self._histograms, self._options, self._pool = histograms, options, pool
        self._pending: list[Future[None]] = []
        self._steady = 0

    def add(self, values: Feeds, size: int) -> None:
        """Hand a batch to the workers once they have done the last, cut where snapshots fall."""
        start = 0
        while start < size and not self.stopped:
            end = min(size, start + _to_next_snapshot(self.images))
            self._wait()
            self._pending = [
                self._pool.submit(_observe, histogram, name, values[name][start:end], self.images)
                for name, histogram in self._histograms.items()
            ]
            self.images += end - start
            start = end
            if _to_next_snapshot(self.images - 1) == 1:
                self._snapshot()

    def finish(self) -> None:
        """Wait for the workers and record where the scales ended."""
        self._wait()
        if not self.snapshots or self.snapshots[-1].images < self.images:
            self._snapshot()

    def note(self) -> str:
        """Say how much the last doubling changed the scales."""
        if len(self.snapshots) < 2:
            return ""
        return f"scales moved {self.snapshots[-1].change(self.snapshots[-2]):.1%}"

    def _snapshot(self) -> None:
        self._wait()
        method = self._options.method
        amax = {
            name: find_range(histogram, method, self._options.kind).amax
            for name, histogram in self._histograms.items()
        }
        self.snapshots.append(Snapshot(self.images, amax))
        tolerance = self._options.tolerance
        if tolerance is not None and len(self.snapshots) > 1:
            steady = self.snapshots[-1].change(self.snapshots[-2]) <= tolerance
            self._steady = self._steady + 1 if steady else 0
            self.stopped = self._steady >= STEADY

    def _wait(self) -> None:
        for future in self._pending:
            future.result()
        self._pending = []


def _to_next_snapshot(images: int) -> int:
    following = FIRST_SNAPSHOT
    while following <= images:
        following *= 2
    return following - images


def _observe(histogram: Histogram, name: str, values: npt.NDArray[Any], first: int) -> None:
    try:
        histogram.observe(values)
    except NotFinite as error:
        image = first + error.index // (values.size // len(values))
        raise NotFinite(
            f"tensor {name!r} is not finite on calibration image {image}",
            index=image,
            hint="check that image and its preprocessing; else the network itself overflows",
        ) from error


def _counted(batches: Iterator[Feeds], images: int) -> Iterator[tuple[Feeds, int, int]]:
    """Yield (feeds, images in them, images of them to use) until there are enough."""
    done = 0
    for feeds in batches:
        size = _batch_size(feeds)
        wanted = min(size, images - done)
        done += wanted
        yield feeds, size, wanted
        if done == images:
            return
    if not done:
        raise NoData("no calibration images", hint="calibrate on real training images")
    raise NoData(
        f"the calibration images ran out after {done} of {images}",
        hint=f"ask for {done} images at most, or give more data",
    )


def _batch_size(feeds: Feeds) -> int:
    sizes = {len(array) if array.ndim else 0 for array in feeds.values()}
    if len(sizes) != 1 or 0 in sizes:
        shapes = ", ".join(f"{name}: {array.shape}" for name, array in feeds.items())
        raise WrongRequest(f"a batch needs images along each first axis; got {shapes or 'none'}")
    return sizes.pop()


def _infer(session: Session, names: Sequence[str], feeds: Feeds) -> Feeds:
    if not names:  # graph inputs alone: asking a runtime for no output means all of them
        return {}
    return dict(zip(names, map(np.asarray, session.run(names, feeds)), strict=True))


def _refuse_other_axes(tensors: Sequence[str], values: Feeds, size: int) -> None:
    for name in tensors:
        shape = values[name].shape
        if shape[:1] != (size,) or 0 in shape:
            raise CalibrationError(
                f"tensor {name!r} has shape {shape} for {size} images",
                hint="only activations with the batch as first axis can be calibrated",
            )


def _refuse_nonsense(
    images: int, options: Options, labels: npt.NDArray[np.integer[Any]] | None
) -> None:
    if images < 1:
        raise WrongRequest(f"calibration needs at least one image, not {images}")
    if options.method not in CALIBRATORS:
        known = ", ".join(CALIBRATORS)
        raise WrongRequest(f"unknown calibrator {options.method!r}", hint=f"known: {known}")
    if labels is not None and len(labels) < images:
        raise WrongRequest(f"{len(labels)} labels for {images} calibration images")


def _balance_warnings(
    labels: npt.NDArray[np.integer[Any]] | None, classes: int | None, images: int
) -> tuple[str, ...]:
    if labels is None:
        return ()
    warning = class_balance(labels[:images], classes or int(labels.max()) + 1)
    return (warning,) if warning else ()
