"""What several test files share: the markers' skips, Keras, and small data."""

from __future__ import annotations

import importlib.util
import os
import signal
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

FASHION_FOLDERS = ("/usr/share/datasets", os.environ.get("EXPORTER_DATA") or "/nowhere")


def fashion_mnist_is_here() -> bool:
    names = ("fashion-mnist/t10k-images-idx3-ubyte.gz", "t10k-images-idx3-ubyte.gz")
    return any(Path(folder, name).is_file() for folder in FASHION_FOLDERS for name in names)


def pytest_configure(config: pytest.Config) -> None:
    # A shell's background jobs ignore Ctrl-C, and so would all that tests start and interrupt.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    # Keras 3.15 turns TensorFlow variables into arrays in a way that numpy 2 deprecates.
    config.addinivalue_line(
        "filterwarnings", "ignore:__array__ implementation doesn't accept a copy:DeprecationWarning"
    )


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("tf") and not importlib.util.find_spec("tensorflow"):
        pytest.skip("TensorFlow is not installed: pip install 'exporter[cpu]'")
    if item.get_closest_marker("data") and not fashion_mnist_is_here():
        pytest.skip(f"Fashion-MNIST is in none of {', '.join(FASHION_FOLDERS)}")


@pytest.fixture(scope="session")
def keras() -> ModuleType:
    """Keras on TensorFlow, loaded the way the product does."""
    from exporter.network.keras_env import load_keras

    return load_keras()


def striped_images(count: int, side: int = 16, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Make images of three classes: lines across, lines down, no lines; under noise.

    Mirroring and moving an image does not change its class.
    """
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % 3
    wave = 90 * np.sin(np.arange(side) * np.pi / 2)
    clean = np.stack(
        [
            np.broadcast_to(wave[:, None], (side, side)),
            np.broadcast_to(wave[None, :], (side, side)),
            np.zeros((side, side)),
        ]
    )
    images = 128 + clean[labels] + rng.normal(0, 15, (count, side, side))
    return np.clip(images, 0, 255).astype(np.uint8), labels.astype(np.int64)


@pytest.fixture
def tiny_data(tmp_path: Path) -> str:
    """The spec of an ``.npz`` of 96 learnable 16x16 grey images in three classes."""
    images, labels = striped_images(96)
    np.savez(tmp_path / "tiny.npz", images=images, labels=labels)
    return f"npz:{tmp_path / 'tiny.npz'}"


def write_photos(
    folder: Path,
    images: np.ndarray,
    labels: np.ndarray,
    names: Sequence[str] = "012",
    mode: str = "L",
) -> None:
    """Write grey images as files, ``folder/NAME/0000.png`` and so on, with a name per class."""
    from PIL import Image

    for i, (image, label) in enumerate(zip(images, labels, strict=True)):
        place = folder / names[label]
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).convert(mode).save(place / f"{i:04}.png")


@pytest.fixture
def data(tmp_path: Path) -> str:
    """Folders of training and test images that have none in common."""
    for seed, split in enumerate(("train", "test")):
        write_photos(tmp_path / "images" / split, *striped_images(96, seed=seed))
    return f"folder:{tmp_path / 'images'}"
