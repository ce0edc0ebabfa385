"""Run the calibration images through the network once, and fill a histogram per tapped tensor.

Memory holds two batches of activations and the histograms, however many images there are.
The histograms depend on the images alone. The record of convergence also depends on their order.
Neither depends on how the images are cut into batches.
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
FIRST_SNAPSHOT = 16  # images; the next snapshots follow at each doubling
STEADY = 2  # the pass stops early after so many doublings in a row within ``tolerance``


class Progress(Protocol):
    """The same signature as ``exporter.progress.Progress``."""

    def __call__(self, stage: str, done: int, total: int, note: str = "") -> None:
        """Report ``done`` of ``total`` images."""


def silent(stage: str, done: int, total: int, note: str = "") -> None:
    """Report nothing."""


@dataclass(frozen=True)
class Options:
    """Options of a pass.

    Attributes:
        method: the calibrator that judges convergence. The histograms serve all calibrators.
        kind: the kind of ranges that convergence is judged by. The histograms serve all kinds.
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
    """The results of a pass.

    Attributes:
        histograms: by tensor, in the order of the request.
        images: how many were used.
        stopped_early: whether ``tolerance`` ended the pass.
        convergence: snapshots at 16 images and each doubling, and at the end.
        warnings: one line each. They have not been printed.
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
        model: the graph to quantize; not changed.
        tensors: names of graph inputs or computed tensors.
        batches: feeds by input name, the images along each array's first axis, preprocessed as
            for inference. Read no further than needed.
        images: how many to use. Extra images in the last batch are not counted.
        open_session: makes a session from a serialized graph (pass
            ``onnxruntime.InferenceSession`` itself), so that this package needs no runtime.
            Called once. If the session's threads don't spin, counting gets more CPU time.
        options: method, early stop, threads.
        labels: labels of the images in the same order, shape (at least ``images``,). If given,
            the class balance of the used images is checked.
        classes: how many classes there are; None: one more than the greatest label.
        progress: called after each batch.

    Raises:
        NoData: there was no batch, or the batches held fewer than ``images``.
        NotFinite: an activation is NaN or infinite. The message names the tensor and the image.
        WrongRequest: an unknown tensor or method, ``images`` under 1, too few labels, or the
            arrays of a batch differ in their number of images.
        CalibrationError: a tensor has no values.
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
            values = feeds | activations
            rows = {name: _by_image(name, values[name], size)[:wanted] for name in tensors}
            seen.add(rows, wanted)
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
    """The state of a pass: histograms that worker threads fill, and the snapshots so far."""

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
        """Hand a batch to the workers once the last one is done, cut where a snapshot is due."""
        start = 0
        while start < size and not self.stopped:
            end = min(size, start + _to_next_snapshot(self.images))
            self._wait()
            self._pending = [
                self._pool.submit(_observe, histogram, name, values[name][start:end], self.images)
                for name, histogram in self._histograms.items()
                if start < len(values[name])  # a single row is seen once per batch
            ]
            self.images += end - start
            start = end
            if _to_next_snapshot(self.images - 1) == 1:
                self._snapshot()

    def finish(self) -> None:
        """Wait for the workers and record the final scales."""
        self._wait()
        if not self.snapshots or self.snapshots[-1].images < self.images:
            self._snapshot()

    def note(self) -> str:
        """Return how much the last doubling changed the scales, as text for the progress line."""
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
            f"tensor {name!r} has a NaN or infinite value on calibration image {image}",
            index=image,
            hint="check that image and its preprocessing; if both are right, the network overflows",
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
        raise NoData("there are no calibration images", hint="calibrate on real training images")
    raise NoData(
        f"the data has {done} calibration images, and {images} are needed",
        hint=f"ask for at most {done} images, or give more data",
    )


def _batch_size(feeds: Feeds) -> int:
    sizes = {len(array) if array.ndim else 0 for array in feeds.values()}
    if len(sizes) != 1 or 0 in sizes:
        shapes = ", ".join(f"{name}: {array.shape}" for name, array in feeds.items())
        raise WrongRequest(
            "all arrays of a batch need the same number of images along their first axis; "
            f"got {shapes or 'no arrays'}"
        )
    return sizes.pop()


def _infer(session: Session, names: Sequence[str], feeds: Feeds) -> Feeds:
    if not names:  # graph inputs alone: a runtime takes an empty list for "all outputs"
        return {}
    return dict(zip(names, map(np.asarray, session.run(names, feeds)), strict=True))


def _by_image(name: str, values: npt.NDArray[Any], size: int) -> npt.NDArray[Any]:
    """Return the values with one row per image, or a single row if no axis counts the images.

    Steps may come before images (a recurrence), and both may be one axis, images first (a dense
    layer of a sequence). What passes through a loop unchanged has no images.
    """
    if not values.size:
        raise CalibrationError(
            f"tensor {name!r} has shape {values.shape} for {size} images",
            hint="an activation without values can't be calibrated",
        )
    if size in values.shape:
        return np.moveaxis(values, values.shape.index(size), 0)
    if values.ndim and len(values) % size == 0:
        return values.reshape(size, -1)
    return values.reshape(1, -1)


def _refuse_nonsense(
    images: int, options: Options, labels: npt.NDArray[np.integer[Any]] | None
) -> None:
    if images < 1:
        raise WrongRequest(f"calibration needs at least one image, but got {images}")
    if options.method not in CALIBRATORS:
        known = ", ".join(CALIBRATORS)
        raise WrongRequest(f"unknown calibrator {options.method!r}", hint=f"known: {known}")
    if labels is not None and len(labels) < images:
        raise WrongRequest(f"there are only {len(labels)} labels for {images} calibration images")


def _balance_warnings(
    labels: npt.NDArray[np.integer[Any]] | None, classes: int | None, images: int
) -> tuple[str, ...]:
    if labels is None:
        return ()
    warning = class_balance(labels[:images], classes or int(labels.max()) + 1)
    return (warning,) if warning else ()
