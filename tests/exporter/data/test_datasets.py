"""Data sets: what is found, in which order, and what every kind of damage says."""

from __future__ import annotations

import gzip
import hashlib
import struct
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from exporter.data import datasets
from exporter.errors import ExporterError, Missing, WrongUse

RNG = np.random.default_rng(0)
MakeFiles = Callable[..., None]


def idx_gz(array: np.ndarray) -> bytes:
    header = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
    return gzip.compress(header + array.tobytes())


@pytest.fixture
def isolated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing on disk, nothing on the net."""
    monkeypatch.setattr(datasets, "_SYSTEM_FOLDER", tmp_path / "no-system-folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("EXPORTER_DATA", raising=False)

    def refuse(*_: Any, **__: Any) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)


@pytest.fixture
def stand_in(isolated: None, monkeypatch: pytest.MonkeyPatch) -> MakeFiles:
    """Two images published as Fashion-MNIST; returns what writes the files to a folder."""
    arrays = {
        "images.gz": RNG.integers(0, 256, (2, 28, 28), dtype=np.uint8),
        "labels.gz": np.array([3, 7], np.uint8),
    }
    packed = {name: idx_gz(array) for name, array in arrays.items()}
    sums = {name: hashlib.sha256(gzip.decompress(raw)).hexdigest() for name, raw in packed.items()}
    monkeypatch.setattr(datasets, "_FASHION_FILES", {"train": sums, "test": sums})

    def write(folder: Path, **damaged: bytes) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        for name, raw in packed.items():
            (folder / name).write_bytes(damaged.get(name.partition(".")[0], raw))

    return write


@pytest.mark.data
class TestRealFashionMnist:
    @pytest.mark.parametrize(
        ("split", "count", "first_labels"),
        # As printed in any tutorial; the test set's first is an ankle boot, then a pullover.
        [("train", 60_000, [9, 0, 0, 3, 0]), ("test", 10_000, [9, 2, 1, 1, 6])],
    )
    def test_is_the_published_one(
        self, split: datasets.Split, count: int, first_labels: list[int]
    ) -> None:
        data = datasets.load("fashion-mnist", split)
        assert len(data) == count
        assert data.labels.dtype == np.int64
        assert data.labels[:5].tolist() == first_labels
        assert np.bincount(data.labels).tolist() == [count // 10] * 10
        assert (data.name, data.split, data.channels) == ("fashion-mnist", split, 1)
        assert len(data.classes) == 10
        assert (data.classes[0], data.classes[9]) == ("T-shirt/top", "Ankle boot")

    def test_pixels_have_the_size_asked_for(self) -> None:
        pixels = datasets.load("fashion-mnist", "test").pixels([5, 0], (96, 64))
        assert pixels.shape == (2, 96, 64, 1)
        assert pixels.dtype == np.uint8
        assert pixels.max() > 200


class TestFindingFashionMnist:
    def test_exporter_data_comes_before_the_system_folder(
        self, stand_in: MakeFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        stand_in(tmp_path / "system" / "fashion-mnist")
        stand_in(tmp_path / "mine" / "fashion-mnist", labels=b"damaged")
        monkeypatch.setattr(datasets, "_SYSTEM_FOLDER", tmp_path / "system")
        assert datasets.load("fashion-mnist", "test").labels.tolist() == [3, 7]
        monkeypatch.setenv("EXPORTER_DATA", str(tmp_path / "mine"))
        with pytest.raises(ExporterError, match=r"damaged data file .*mine"):
            datasets.load("fashion-mnist", "test")

    @pytest.mark.parametrize("below", ["fashion-mnist", "."])
    def test_exporter_data_holds_the_files_or_a_folder_of_them(
        self, stand_in: MakeFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, below: str
    ) -> None:
        stand_in(tmp_path / "mine" / below)
        monkeypatch.setenv("EXPORTER_DATA", str(tmp_path / "mine"))
        assert len(datasets.load("fashion-mnist", "train")) == 2

    @pytest.mark.usefixtures("isolated")
    def test_missing_everywhere_names_the_three_ways(self) -> None:
        with pytest.raises(Missing, match="no route to host") as caught:
            datasets.load("fashion-mnist", "train")
        assert caught.value.exit_code == 4
        assert caught.value.hint is not None
        for way in (
            "EXPORTER_DATA",
            "apt-get install dataset-fashion-mnist",
            "https://storage.googleapis.com/",
        ):
            assert way in caught.value.hint

    @pytest.mark.parametrize(
        "damage",
        [b"not gzip", gzip.compress(b"other content"), idx_gz(np.zeros(2, np.uint8))[:-9]],
        ids=["not-gzip", "other-content", "cut-off"],
    )
    def test_a_damaged_file_is_named(
        self, stand_in: MakeFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: bytes
    ) -> None:
        stand_in(tmp_path / "mine", images=damage)
        monkeypatch.setenv("EXPORTER_DATA", str(tmp_path / "mine"))
        with pytest.raises(ExporterError, match=r"damaged data file .*images\.gz") as caught:
            datasets.load("fashion-mnist", "train")
        assert caught.value.exit_code == 1


class TestDownload:
    @pytest.fixture
    def site(self, stand_in: MakeFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        """A folder that stands for the web site; ``stand_in`` fills it."""
        site = tmp_path / "site"
        monkeypatch.setattr(urllib.request, "urlopen", urllib.request.build_opener().open)
        monkeypatch.setattr(datasets, "_FASHION_URL", site.as_uri() + "/")
        return site

    def test_fills_the_cache_and_is_not_repeated(
        self, stand_in: MakeFiles, site: Path, tmp_path: Path
    ) -> None:
        stand_in(site)
        seen: list[tuple[str, int, int]] = []
        datasets.load("fashion-mnist", "train", lambda *step: seen.append(step[:3]))
        cache = tmp_path / "cache" / "exporter" / "fashion-mnist"
        assert sorted(p.name for p in cache.iterdir()) == ["images.gz", "labels.gz"]
        assert [step[0] for step in seen] == ["download images.gz", "download labels.gz"]
        assert all(done == total > 0 for _, done, total in seen)
        for file in site.iterdir():
            file.unlink()
        assert datasets.load("fashion-mnist", "train").labels.tolist() == [3, 7]

    @pytest.mark.parametrize(
        "sent",
        [b"<html>sign in</html>", gzip.compress(b"other")],
        ids=["page", "other-file"],  # gzip writes the time of day, and ids must be the same twice
    )
    def test_wrong_content_leaves_nothing_behind(
        self, stand_in: MakeFiles, site: Path, tmp_path: Path, sent: bytes
    ) -> None:
        stand_in(site, images=sent)
        with pytest.raises(Missing, match="is not the published file"):
            datasets.load("fashion-mnist", "train")
        assert list((tmp_path / "cache" / "exporter" / "fashion-mnist").iterdir()) == []

    def test_ctrl_c_leaves_nothing_behind(
        self, stand_in: MakeFiles, site: Path, tmp_path: Path
    ) -> None:
        def interrupt(*_: object) -> None:
            raise KeyboardInterrupt

        stand_in(site)
        with pytest.raises(KeyboardInterrupt):
            datasets.load("fashion-mnist", "train", interrupt)
        assert list((tmp_path / "cache" / "exporter" / "fashion-mnist").iterdir()) == []


class TestNpz:
    @staticmethod
    def save(tmp_path: Path, **arrays: np.ndarray) -> str:
        np.savez(tmp_path / "a.npz", **arrays)
        return f"npz:{tmp_path / 'a.npz'}"

    @pytest.mark.parametrize(
        ("shape", "channels"), [((2, 5, 4), 1), ((2, 5, 4, 1), 1), ((2, 5, 4, 3), 3)]
    )
    def test_grey_with_or_without_an_axis_and_rgb(
        self, tmp_path: Path, shape: tuple[int, ...], channels: int
    ) -> None:
        images = RNG.integers(0, 256, shape, dtype=np.uint8)
        spec = self.save(tmp_path, images=images, labels=np.array([1, 0], np.int32))
        data = datasets.load(spec, "train")
        assert (data.channels, data.classes, data.name) == (channels, (), "a.npz")
        assert data.labels.dtype == np.int64
        assert data.labels.tolist() == [1, 0]
        np.testing.assert_array_equal(
            data.pixels([0, 1], (5, 4)), images.reshape(2, 5, 4, channels)
        )

    def test_training_and_test_images_apart_as_keras_has_them(self, tmp_path: Path) -> None:
        """With labels of (n, 1), as keras.datasets.cifar10 gives them."""
        train, test = (RNG.integers(0, 256, (n, 4, 4, 3), dtype=np.uint8) for n in (3, 2))
        labels = {"y_train": np.array([[2], [0], [1]]), "y_test": np.array([[1], [0]])}
        spec = self.save(tmp_path, x_train=train, x_test=test, **labels)
        for split, images in (("train", train), ("test", test)):
            data = datasets.load(spec, split)
            assert data.labels.tolist() == labels[f"y_{split}"][:, 0].tolist()
            np.testing.assert_array_equal(data.pixels(range(len(data)), (4, 4)), images)

    def test_one_part_without_the_other(self, tmp_path: Path) -> None:
        spec = self.save(tmp_path, x_train=self.GOOD, y_train=np.array([0, 1]))
        with pytest.raises(WrongUse, match="can't read") as caught:
            datasets.load(spec, "test")
        assert "x_test" in str(caught.value.hint)

    GOOD = np.zeros((2, 4, 4), np.uint8)

    @pytest.mark.parametrize(
        ("arrays", "message"),
        [
            ({"images": GOOD}, "labels"),
            ({"labels": np.zeros(2, int)}, "images"),
            ({"images": GOOD.astype(np.float32), "labels": np.zeros(2, int)}, "images are float32"),
            ({"images": np.zeros((2, 4, 4, 2), np.uint8), "labels": np.zeros(2, int)}, "4, 4, 2"),
            ({"images": GOOD, "labels": np.zeros(3, int)}, "2 images, labels int64"),
            ({"images": GOOD, "labels": np.zeros(2)}, "labels float64"),
            ({"images": GOOD, "labels": np.zeros((2, 10), int)}, r"labels int64 \(2, 10\)"),
            ({"images": GOOD[:0], "labels": np.zeros(0, int)}, "0 images"),
            ({"images": GOOD, "labels": np.array([0, -1])}, "label -1 is negative"),
            ({"images": np.array([None, 1]), "labels": np.zeros(2, int)}, "allow_pickle"),
        ],
        ids=lambda value: value if isinstance(value, str) else None,
    )
    def test_what_does_not_fit_is_refused(
        self, tmp_path: Path, arrays: dict[str, np.ndarray], message: str
    ) -> None:
        with pytest.raises(WrongUse, match=message):
            datasets.load(self.save(tmp_path, **arrays), "train")

    @pytest.mark.parametrize("content", [b"", b"text", b"PK\x03\x04 cut off"])
    def test_a_file_that_is_no_npz(self, tmp_path: Path, content: bytes) -> None:
        (tmp_path / "a.npz").write_bytes(content)
        with pytest.raises(WrongUse, match=r"can't read .*a\.npz"):
            datasets.load(f"npz:{tmp_path / 'a.npz'}", "train")

    def test_a_bare_array(self, tmp_path: Path) -> None:
        np.save(tmp_path / "a.npy", self.GOOD)
        with pytest.raises(WrongUse, match="a single array without a name"):
            datasets.load(f"npz:{tmp_path / 'a.npy'}", "train")

    def test_no_such_file(self, tmp_path: Path) -> None:
        with pytest.raises(WrongUse, match="no such file"):
            datasets.load(f"npz:{tmp_path / 'none.npz'}", "train")


def picture(path: Path, mode: str = "L", size: tuple[int, int] = (6, 5)) -> np.ndarray:
    """Save a random picture and return its (height, width[, 3]) pixels."""
    shape = (size[1], size[0]) if mode == "L" else (size[1], size[0], 3)
    array = RNG.integers(0, 256, shape, dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)
    return array


class TestFolder:
    def test_one_folder_a_class(self, tmp_path: Path) -> None:
        second = picture(tmp_path / "b" / "1.png")
        first = picture(tmp_path / "a" / "2.PNG")
        (tmp_path / "a" / "notes.txt").write_text("not an image")
        data = datasets.load(f"folder:{tmp_path}", "test")
        assert len(data) == 2
        assert (data.classes, data.labels.tolist(), data.channels) == (("a", "b"), [0, 1], 1)
        pixels = data.pixels([0, 1], (5, 6))
        np.testing.assert_array_equal(pixels, np.stack([first, second])[..., None])

    def test_train_and_test_are_used_where_both_exist(self, tmp_path: Path) -> None:
        picture(tmp_path / "train" / "a" / "1.png")
        picture(tmp_path / "train" / "a" / "2.png")
        picture(tmp_path / "test" / "a" / "3.png")
        assert len(datasets.load(f"folder:{tmp_path}", "train")) == 2
        assert len(datasets.load(f"folder:{tmp_path}", "test")) == 1

    def test_a_class_that_one_part_lacks_does_not_move_the_labels(self, tmp_path: Path) -> None:
        for name in ("a", "b", "c"):
            picture(tmp_path / "train" / name / "1.png")
        picture(tmp_path / "test" / "c" / "1.png")
        test = datasets.load(f"folder:{tmp_path}", "test")
        assert test.classes == ("a", "b", "c")
        assert test.labels.tolist() == [2]

    def test_one_colour_image_makes_all_rgb(self, tmp_path: Path) -> None:
        grey = picture(tmp_path / "a" / "1.png")
        colour = picture(tmp_path / "a" / "2.png", "RGB")
        data = datasets.load(f"folder:{tmp_path}", "train")
        assert data.channels == 3
        pixels = data.pixels([0, 1], (5, 6))
        np.testing.assert_array_equal(pixels[0], np.stack([grey] * 3, axis=-1))
        np.testing.assert_array_equal(pixels[1], colour)

    @pytest.mark.parametrize("inside", [(), ("a",)])
    def test_no_images(self, tmp_path: Path, inside: tuple[str, ...]) -> None:
        for name in inside:
            (tmp_path / name).mkdir()
        with pytest.raises(WrongUse, match="no images in"):
            datasets.load(f"folder:{tmp_path}", "train")

    def test_no_such_folder(self, tmp_path: Path) -> None:
        with pytest.raises(WrongUse, match="no such folder"):
            datasets.load(f"folder:{tmp_path / 'none'}", "train")

    def test_an_unreadable_image_is_named_at_once(self, tmp_path: Path) -> None:
        picture(tmp_path / "a" / "good.png")
        (tmp_path / "a" / "zbad.png").write_bytes(b"not a picture")
        with pytest.raises(WrongUse, match=r"can't read image .*zbad\.png"):
            datasets.load(f"folder:{tmp_path}", "train")

    def test_a_cut_off_image_is_named_when_it_is_read(self, tmp_path: Path) -> None:
        picture(tmp_path / "a" / "cut.png", size=(64, 64))
        whole = (tmp_path / "a" / "cut.png").read_bytes()
        (tmp_path / "a" / "cut.png").write_bytes(whole[: len(whole) // 2])
        data = datasets.load(f"folder:{tmp_path}", "train")
        with pytest.raises(ExporterError, match=r"can't read image .*cut\.png"):
            data.pixels([0], (64, 64))

    def test_sixteen_bits_are_refused_rather_than_clipped(self, tmp_path: Path) -> None:
        (tmp_path / "a").mkdir()
        Image.fromarray(np.full((4, 4), 40_000, np.uint16)).save(tmp_path / "a" / "deep.png")
        with pytest.raises(WrongUse, match=r"deep\.png has more than 8 bits"):
            datasets.load(f"folder:{tmp_path}", "train")


@pytest.mark.parametrize("spec", ["fashion", "folder:", "npz", "csv:x", ""])
def test_unknown_spec_lists_the_forms(spec: str) -> None:
    with pytest.raises(WrongUse, match="unknown data set") as caught:
        datasets.load(spec, "train")
    assert caught.value.hint == "use fashion-mnist, folder:PATH or npz:PATH"


class TestResize:
    def test_same_size_is_the_same_image(self) -> None:
        image = RNG.integers(0, 256, (5, 7, 3), dtype=np.uint8)
        assert datasets.resize(image, (5, 7)) is image

    @pytest.mark.parametrize("channels", [1, 3])
    @pytest.mark.parametrize("size", [(11, 4), (2, 3)])
    def test_is_pillows_bilinear(self, channels: int, size: tuple[int, int]) -> None:
        image = RNG.integers(0, 256, (5, 7, channels), dtype=np.uint8)
        height, width = size
        planes = [
            Image.fromarray(image[..., c]).resize((width, height), Image.Resampling.BILINEAR)
            for c in range(channels)
        ]
        expected = np.stack([np.asarray(plane) for plane in planes], axis=-1)
        np.testing.assert_array_equal(datasets.resize(image, size), expected)


class TestBatches:
    @pytest.fixture
    def data(self) -> datasets.ArrayDataset:
        images = np.arange(7, dtype=np.uint8).reshape(7, 1, 1, 1)
        return datasets.ArrayDataset("seven", "test", images, np.arange(7) * 10, ())

    def test_in_order_with_a_short_last_one(self, data: datasets.ArrayDataset) -> None:
        parts = list(datasets.batches(data, (1, 1), 3))
        assert [pixels.ravel().tolist() for pixels, _ in parts] == [[0, 1, 2], [3, 4, 5], [6]]
        assert [labels.tolist() for _, labels in parts] == [[0, 10, 20], [30, 40, 50], [60]]

    @pytest.mark.parametrize(
        ("limit", "sizes"), [(None, [3, 3, 1]), (4, [3, 1]), (3, [3]), (99, [3, 3, 1]), (0, [])]
    )
    def test_limit(self, data: datasets.ArrayDataset, limit: int | None, sizes: list[int]) -> None:
        parts = list(datasets.batches(data, (1, 1), 3, limit))
        assert [len(labels) for _, labels in parts] == sizes
