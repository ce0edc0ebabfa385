"""The Keras original's logits: the slowest of all to compute, so kept where that is asked for.

With ``EXPORTER_KEEP_LOGITS=FOLDER`` they are written there and taken from there for the same
network, inputs and versions: a ladder, a gate and a versions matrix on the same images then run
Keras once. Without it nothing is kept, and Keras runs each time.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from exporter.progress import Progress
from exporter.runner import KerasRunner
from exporter.versions import installed_versions

if TYPE_CHECKING:
    from benchmarks.accuracy import Images, Logits

FOLDER = "EXPORTER_KEEP_LOGITS"
_DECIDE = ("exporter", "keras", "tensorflow", "tensorflow-cpu", "numpy")


def original_logits(images: Images, progress: Progress) -> Logits:
    """Run the original on all images, or read what it gave before; (images, classes)."""
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
    """Hash all that decides what comes out: weights, every input as it is fed, versions."""
    versions = installed_versions()
    decides = [images.source.name, images.source.sha256, [versions[name] for name in _DECIDE]]
    digest = hashlib.sha256(json.dumps(decides).encode())
    for feed in images.feeds():
        for name, array in feed.items():
            digest.update(f"{name} {array.dtype} {array.shape}".encode())
            digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
