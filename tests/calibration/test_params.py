from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from calibration.convergence import Snapshot
from calibration.errors import CalibrationError, DamagedParams, WrongParams
from calibration.observers import CALIBRATORS, Histogram, find_range
from calibration.params import FORMAT, Params, calibrate, load
from calibration.scales import affine_scale_zero_point, symmetric_scale

RNG = np.random.default_rng(5)
VALUES = {
    "image": RNG.normal(size=5000).astype(np.float32),
    "relu": np.maximum(RNG.normal(size=5000), 0).astype(np.float32),
    "dead": np.zeros(100, np.float32),
}


def params(method: str = "entropy") -> Params:
    histograms = {name: Histogram() for name in VALUES}
    for name, histogram in histograms.items():
        histogram.observe(VALUES[name])
    return calibrate(
        histograms,
        method,
        images=50,
        graph="g1",
        data="d1",
        preprocessing="unit",
        percentile=99,
        stopped_early=True,
        snapshots=[Snapshot(images, dict.fromkeys(VALUES, 1.5)) for images in (16, 32, 50)],
    )


@pytest.mark.parametrize("method", CALIBRATORS)
def test_a_calibration_survives_its_file_exactly(method: str, tmp_path: Path) -> None:
    path = tmp_path / "calibration.json"
    params(method).save(path)
    assert load(path) == params(method)
    assert os.listdir(tmp_path) == ["calibration.json"]


def test_ranges_and_statistics_are_those_of_the_data() -> None:
    found = params("percentile").tensors["image"]
    values = VALUES["image"]
    histogram = Histogram()
    histogram.observe(values)
    assert found.amax == find_range(histogram, "percentile", "symmetric", percentile=99).amax
    assert (found.minimum, found.maximum, found.count) == (values.min(), values.max(), 5000)
    assert found.mean == pytest.approx(values.mean(), abs=histogram.width)
    # 1% by definition; the bin at the border holds a few of 5000 values.
    assert found.clipped == pytest.approx(0.01, abs=0.002)
    assert found.clipped_affine == pytest.approx(0.01, abs=0.002)
    assert found.scale == symmetric_scale(found.amax)
    assert found.affine == affine_scale_zero_point(found.low, found.high)


def test_the_file_says_all_that_a_reader_needs(tmp_path: Path) -> None:
    params().save(tmp_path / "c.json")
    content = json.loads((tmp_path / "c.json").read_text())
    head = {key: content[key] for key in ("format", "method", "images", "graph", "data")}
    assert head == {
        "format": FORMAT,
        "method": "entropy",
        "images": 50,
        "graph": "g1",
        "data": "d1",
    }
    assert content["preprocessing"] == "unit"
    relu = content["tensors"]["relu"]
    assert (relu["low"], relu["affine_zero_point"]) == (0, 0)
    assert relu["scale"] == pytest.approx(relu["amax"] / 127)
    assert content["tensors"]["dead"]["scale"] > 0


def test_check_says_what_differs() -> None:
    params().check(graph="g1", preprocessing="unit")
    with pytest.raises(WrongParams) as caught:
        params().check(graph="g2", preprocessing="unit")
    assert "graph is g1, here g2" in caught.value.message
    assert "preprocessing" not in caught.value.message
    with pytest.raises(WrongParams, match=r"graph is g1.*preprocessing is unit, here raw"):
        params().check(graph="g2", preprocessing="raw")


def damage(key: str, value: object) -> str:
    content = json.loads(json.dumps(params()._to_json()))
    place = content["tensors"]["relu"] if key in content["tensors"]["relu"] else content
    if value is None:
        del place[key]
    else:
        place[key] = value
    return json.dumps(content)


KEYS = ["format", "tensors", "method", "images", "graph", "percentile", "convergence", "amax"]
KEYS += ["count", "scale"]


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize(
    "value", [None, [], "", True, -1.5, float("nan"), 10**400], ids=lambda v: str(v)[:9]
)
def test_a_damaged_field_is_refused(key: str, value: object, tmp_path: Path) -> None:
    if value == "" and key in ("method", "graph"):
        pytest.skip("text may be empty: check() compares it")
    path = tmp_path / "c.json"
    path.write_text(damage(key, value))
    with pytest.raises(DamagedParams, match=r"c\.json"):
        load(path)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '"x"', "\xff", "[" * 100_000])
def test_what_is_not_ours_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "c.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(DamagedParams):
        load(path)


def test_a_newer_format_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "c.json"
    path.write_text(damage("format", FORMAT + 1))
    with pytest.raises(DamagedParams, match=f"format {FORMAT + 1}") as caught:
        load(path)
    assert "update" in (caught.value.hint or "")


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(CalibrationError, match="can't read"):
        load(tmp_path / "none.json")


def test_a_failed_save_leaves_the_old_file(tmp_path: Path, monkeypatch) -> None:
    path = tmp_path / "c.json"
    params().save(path)
    before = path.read_bytes()

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        params("mse").save(path)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["c.json"]
