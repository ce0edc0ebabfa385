"""Labeled images: Fashion-MNIST, a folder of classes, or an ``.npz`` file.

A data set returns uint8 pixels at the size that a model needs.
:mod:`exporter.models.preprocessing` turns them into network inputs.
"""

from __future__ import annotations

import gzip
import hashlib
import http.client
import os
import struct
import urllib.request
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt

from exporter.config import Given
from exporter.errors import ExporterError, Missing, WrongUse
from exporter.progress import Progress, silent

Split = Literal["train", "test"]
Pixels = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.int64]

_SYSTEM_FOLDER = Path("/usr/share/datasets")
_FASHION_URL = "https://storage.googleapis.com/tensorflow/tf-keras-datasets/"
_FASHION_CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
# The four published files (Xiao et al. 2017, arXiv:1708.07747) and the SHA-256 of each after
# unpacking, as distributions compress the same bytes again.
_FASHION_FILES: dict[Split, dict[str, str]] = {
    "train": {
        "train-images-idx3-ubyte.gz": (
            "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888"
        ),
        "train-labels-idx1-ubyte.gz": (
            "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9"
        ),
    },
    "test": {
        "t10k-images-idx3-ubyte.gz": (
            "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b"
        ),
        "t10k-labels-idx1-ubyte.gz": (
            "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34"
        ),
    },
}
_IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".webp"}


class Dataset(Protocol):
    """Images with labels, readable in any order.

    ``labels`` is (n,) int64. ``classes`` has the class names by label; it may be empty.
    ``channels`` is 1 or 3. ``name`` and ``split`` identify the source.
    """

    @property
    def name(self) -> str:
        """Name of the source."""

    @property
    def split(self) -> str:
        """Which part this is: ``train`` or ``test``."""

    @property
    def labels(self) -> Labels:
        """(n,) class indices."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names by label; may be empty."""

    @property
    def channels(self) -> int:
        """1 or 3."""

    def __len__(self) -> int:
        """Count the images."""

    def pixels(
        self, indices: Sequence[int] | npt.NDArray[np.int64], size: tuple[int, ...]
    ) -> Pixels:
        """Return the chosen images as (len(indices), height, width, channels) uint8."""


def resize(image: Pixels, size: tuple[int, ...]) -> Pixels:
    """Resize one (height, width, channels) image with Pillow's bilinear filter.

    Pillow works in uint8 and returns the same bytes on every platform. We need that to reproduce
    an accuracy to the last image.
    """
    from PIL import Image

    height, width = size
    if image.shape[:2] == (height, width):
        return image
    squeezed = image[..., 0] if image.shape[-1] == 1 else image
    resized = Image.fromarray(squeezed).resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(resized, np.uint8).reshape(height, width, image.shape[-1])


@dataclass(frozen=True)
class ArrayDataset:
    """Images in memory, (n, height, width, channels) uint8."""

    name: str
    split: str
    images: Pixels
    labels: Labels
    classes: tuple[str, ...]

    @property
    def channels(self) -> int:
        """Channels of every image."""
        return int(self.images.shape[-1])

    def __len__(self) -> int:
        """Count the images."""
        return len(self.images)

    def pixels(
        self, indices: Sequence[int] | npt.NDArray[np.int64], size: tuple[int, ...]
    ) -> Pixels:
        """Return the chosen images, resized."""
        return np.stack([resize(self.images[i], size) for i in indices])


@dataclass(frozen=True)
class FolderDataset:
    """Images on disk, decoded when needed."""

    name: str
    split: str
    files: tuple[Path, ...]
    labels: Labels
    classes: tuple[str, ...]
    channels: int

    def __len__(self) -> int:
        """Count the images."""
        return len(self.files)

    def pixels(
        self, indices: Sequence[int] | npt.NDArray[np.int64], size: tuple[int, ...]
    ) -> Pixels:
        """Decode and resize the chosen images."""
        return np.stack([resize(self._decode(self.files[i]), size) for i in indices])

    def _decode(self, path: Path) -> Pixels:
        from PIL import Image

        try:
            with Image.open(path) as image:
                array = np.asarray(image.convert("L" if self.channels == 1 else "RGB"), np.uint8)
        except OSError as error:
            raise ExporterError(f"can't read image {path}: {error}") from error
        return array.reshape(*array.shape[:2], self.channels)


def load(spec: str | Given, split: Split, progress: Progress = silent) -> Dataset:
    """Open a data set.

    Args:
        spec: ``fashion-mnist``, ``folder:PATH`` (one folder per class; ``PATH/train`` and
            ``PATH/test`` are used if both exist) or ``npz:PATH`` (``images`` uint8
            (n, height, width[, channels]) and ``labels`` (n,); or ``x_train``, ``y_train``,
            ``x_test``, ``y_test``, as in Keras' own data sets); or data from Python.
        split: which part. A flat folder or one pair of arrays serves as both parts.
        progress: called during a download.

    Raises:
        WrongUse: the spec is not one of these, or its data can't be used.
        Missing: Fashion-MNIST is neither on disk nor downloadable.
    """
    if not isinstance(spec, str):
        part: Dataset = spec.part(split)
        return part
    kind, _, path = spec.partition(":")
    if spec == "fashion-mnist":
        return _fashion_mnist(split, progress)
    if kind == "folder" and path:
        return _folder(Path(path), split)
    if kind == "npz" and path:
        return _npz(Path(path), split)
    raise WrongUse(f"unknown data set {spec!r}", hint="use fashion-mnist, folder:PATH or npz:PATH")


def batches(
    dataset: Dataset, size: tuple[int, ...], batch: int, limit: int | None = None
) -> Iterator[tuple[Pixels, Labels]]:
    """Yield (pixels, labels) in order. The last batch may be shorter."""
    count = len(dataset) if limit is None else min(limit, len(dataset))
    for start in range(0, count, batch):
        indices = np.arange(start, min(start + batch, count))
        yield dataset.pixels(indices, size), dataset.labels[indices]


def _fashion_mnist(split: Split, progress: Progress) -> ArrayDataset:
    images_file, labels_file = _FASHION_FILES[split]
    images, labels = (
        _idx(
            _fashion_file(name, _FASHION_FILES[split][name], progress), _FASHION_FILES[split][name]
        )
        for name in (images_file, labels_file)
    )
    return ArrayDataset(
        "fashion-mnist", split, images[..., None], labels.astype(np.int64), _FASHION_CLASSES
    )


def _cache_folder() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "exporter"


def _fashion_file(name: str, sha256: str, progress: Progress) -> Path:
    """Find a file in ``$EXPORTER_DATA``, the system's folder or the cache, or download it."""
    bases = [_SYSTEM_FOLDER, _cache_folder()]
    if os.environ.get("EXPORTER_DATA"):
        bases.insert(0, Path(os.environ["EXPORTER_DATA"]))
    for base in bases:
        for candidate in (base / "fashion-mnist" / name, base / name):
            if candidate.is_file():
                return candidate
    target = _cache_folder() / "fashion-mnist" / name
    try:
        _download(_FASHION_URL + name, target, sha256, progress)
    except (OSError, http.client.HTTPException) as error:
        raise Missing(
            f"Fashion-MNIST ({name}) is not on this machine and can't be downloaded: {error}",
            hint="do any one of these:\n"
            "  1. put the four .gz files into a folder and set EXPORTER_DATA to it\n"
            "  2. on Debian or Ubuntu: apt-get install dataset-fashion-mnist\n"
            f"  3. allow a download from {_FASHION_URL}",
        ) from error
    return target


def _download(url: str, target: Path, sha256: str, progress: Progress) -> None:
    """Download a gzipped file. It gets its final name only if its content is the published one.

    Raises:
        OSError: the file can't be downloaded or stored, or its content differs.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_suffix(f".{os.getpid()}.part")
    try:
        with urllib.request.urlopen(url, timeout=30) as response, part.open("wb") as out:
            total = int(response.headers.get("Content-Length") or 0)
            while chunk := response.read(1 << 16):
                out.write(chunk)
                progress(f"download {target.name}", out.tell(), max(total, out.tell()))
        if _unpacked_sha256(part.read_bytes()) != sha256:
            raise OSError(f"the content of {url} is not the published file")
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)


def _unpacked_sha256(packed: bytes) -> str | None:
    """Hash the content of a gzip file; None if it is damaged."""
    try:
        return hashlib.sha256(gzip.decompress(packed)).hexdigest()
    except (OSError, EOFError, zlib.error):
        return None


def _idx(path: Path, sha256: str) -> Pixels:
    """Read one gzipped IDX file of unsigned bytes (format: yann.lecun.com/exdb/mnist)."""
    try:
        raw = gzip.decompress(path.read_bytes())
    except (OSError, EOFError, zlib.error) as error:
        raise ExporterError(f"damaged data file {path}: {error}") from error
    if hashlib.sha256(raw).hexdigest() != sha256:
        raise ExporterError(
            f"damaged data file {path}: its content is not the published one",
            hint="delete it, and run the command again to download it",
        )
    ndim = raw[3]
    shape = struct.unpack_from(f">{ndim}I", raw, 4)
    return np.frombuffer(raw, np.uint8, offset=4 + 4 * ndim).reshape(shape)


def _npz(path: Path, split: Split) -> ArrayDataset:
    if not path.is_file():
        raise WrongUse(f"no such file: {path}")
    try:
        with path.open("rb") as file:
            archive = np.load(file, allow_pickle=False)
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise ValueError("it contains a single array without a name")
            parts = f"x_{split}" in archive
            images = archive[f"x_{split}" if parts else "images"]
            labels = archive[f"y_{split}" if parts else "labels"]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise WrongUse(
            f"can't read {path}: {error}",
            hint="it needs the arrays 'images' and 'labels', or x_train, y_train, x_test, y_test",
        ) from error
    if labels.shape == (len(images), 1):  # as in keras.datasets.cifar10
        labels = labels[:, 0]
    if images.ndim == 3:
        images = images[..., None]
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] not in (1, 3):
        raise WrongUse(
            f"{path}: images are {images.dtype} {images.shape}",
            hint="they must be uint8 (n, height, width[, 1 or 3])",
        )
    if len(images) == 0 or labels.shape != (len(images),) or labels.dtype.kind not in "iu":
        raise WrongUse(
            f"{path}: {len(images)} images, labels {labels.dtype} {labels.shape}",
            hint="there must be at least one image, and one integer label for each",
        )
    if labels.min() < 0:
        raise WrongUse(f"{path}: label {labels.min()} is negative")
    return ArrayDataset(path.name, split, images, labels.astype(np.int64), ())


def _folder(path: Path, split: Split) -> FolderDataset:
    from PIL import Image

    if not path.is_dir():
        raise WrongUse(f"no such folder: {path}")
    parts = [path]
    if (path / "train").is_dir() and (path / "test").is_dir():
        parts = [path / "train", path / "test"]
        path = path / split
    # If one part lacks a class, that must not shift the labels of the classes after it.
    classes = sorted({entry.name for part in parts for entry in part.iterdir() if entry.is_dir()})
    files: list[Path] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        inside = (path / name).iterdir() if (path / name).is_dir() else ()
        found = sorted(f for f in inside if f.suffix.lower() in _IMAGE_SUFFIXES)
        files += found
        labels += [label] * len(found)
    if not files:
        raise WrongUse(
            f"no images in {path}",
            hint="it must have one folder per class, with "
            f"{', '.join(sorted(_IMAGE_SUFFIXES))} files",
        )
    grey = True
    for file in files:
        try:
            with Image.open(file) as image:
                mode = image.mode
        except OSError as error:
            raise WrongUse(f"can't read image {file}: {error}") from error
        if mode.startswith(("I", "F")):
            # Pillow would silently clip these at 255.
            raise WrongUse(f"{file} has more than 8 bits per channel", hint="convert it to 8 bits")
        grey = grey and mode in ("1", "L")
    return FolderDataset(
        str(path), split, tuple(files), np.array(labels, np.int64), tuple(classes), 1 if grey else 3
    )
