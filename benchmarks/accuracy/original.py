"""Compute the Keras original's logits, the slowest step, with an optional cache.

``EXPORTER_KEEP_LOGITS=FOLDER`` caches them there by network, inputs and versions, so that a
ladder, a gate and a versions matrix on the same images run Keras only once. Without it, Keras
runs each time.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from exporter.machine.versions import installed_versions
from exporter.network.runner import KerasRunner
from exporter.progress import Progress

if TYPE_CHECKING:
    from benchmarks.accuracy.measure import Images, Logits

FOLDER = "EXPORTER_KEEP_LOGITS"
_DECIDE = ("exporter", "keras", "tensorflow", "tensorflow-cpu", "numpy")


def original_logits(images: Images, progress: Progress) -> Logits:
    """Return the original's logits on all images, (images, classes), from the cache if possible."""
    folder = os.environ.get(FOLDER)
    if not folder:
        return _run(images, progress)
    path = Path(folder, f"{_key(images)}.npy")
    if path.is_file():
        progress("keras", images.count, images.count, "kept")
        kept: Logits = np.load(path)
        return kept
    logits = _run(images, progress)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".logits-", dir=path.parent) as aside:
        np.save(Path(aside, path.name), logits)
        Path(aside, path.name).replace(path)
    return logits


def _run(images: Images, progress: Progress) -> Logits:
    source = images.source
    with KerasRunner(source) as keras:
        return images.logits(keras, images.feeds(), source.batch, "keras", progress)


def _key(images: Images) -> str:
    """Hash everything that decides the result: weights, inputs and versions."""
    versions = installed_versions()
    decides = [images.source.name, images.source.sha256, [versions[name] for name in _DECIDE]]
    digest = hashlib.sha256(json.dumps(decides).encode())
    for feed in images.feeds():
        for name, array in feed.items():
            digest.update(f"{name} {array.dtype} {array.shape}".encode())
            digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
