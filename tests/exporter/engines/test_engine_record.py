"""The passport's record of an engine: what is written is read, and what is damaged is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from exporter.artifact import folder as artifact
from exporter.engines import record as engine_record
from exporter.errors import ExporterError, Missing, WrongUse
from tests.exporter.engine_files import ORIN, artefact


def test_what_is_written_is_read(tmp_path: Path) -> None:
    record = engine_record.parse(ORIN, tmp_path)
    place = artefact(tmp_path / "a", record.as_json())
    assert engine_record.read(artifact.read(place)) == record
    assert record.as_json() == ORIN


def test_fields_of_later_versions_are_left_out(tmp_path: Path) -> None:
    assert engine_record.parse({**ORIN, "later": 1}, tmp_path).tensorrt == "10.3.0"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("flavour", "tensorflow"),
        ("flavour", []),
        ("tensorrt", None),
        ("tensorrt", "ten"),
        ("tensorrt", "10"),
        ("tensorrt", 10.3),
        ("compute_capabilities", []),
        ("compute_capabilities", "8.7"),
        ("compute_capabilities", ["87"]),
        ("compute_capabilities", [8.7]),
        ("hardware_compatibility", "hopper+"),
        ("version_compatible", 0),
        ("os", None),
        ("arch", 64),
        ("cuda", "twelve"),
        ("driver", 580),
        ("gpu", 1),
        ("dla_core", "0"),
        ("dla_core", True),
        ("dla_core", -1),
        ("profile", []),
    ],
)
def test_damaged_records_name_the_field(tmp_path: Path, field: str, value: Any) -> None:
    with pytest.raises(ExporterError, match=f"damaged: {field}"):
        engine_record.parse({**ORIN, field: value}, tmp_path)


@pytest.mark.parametrize("record", [None, 3, [], "trt", {}])
def test_what_is_no_record(tmp_path: Path, record: Any) -> None:
    with pytest.raises(ExporterError, match="damaged"):
        engine_record.parse(record, tmp_path)


@pytest.mark.parametrize("files", [{}, {"model.onnx": b""}])
@pytest.mark.parametrize("record", [None, ORIN])
def test_an_artefact_that_is_not_compiled_says_how(
    tmp_path: Path, record: dict[str, Any] | None, files: dict[str, bytes]
) -> None:
    place = artefact(tmp_path / "a", record, files)
    with pytest.raises(Missing, match="exporter compile"):
        engine_record.read(artifact.read(place))


def test_an_artefact_for_another_target(tmp_path: Path) -> None:
    place = artefact(tmp_path / "a", None, {}, target="ort")
    with pytest.raises(WrongUse, match="has no TensorRT engine"):
        engine_record.read(artifact.read(place))


@pytest.mark.parametrize("version", ["10.3.0", "10.3.0.30", "11.4.1+cuda13.0", "1.7.1.post2"])
def test_versions(version: str) -> None:
    assert engine_record._is_version(version)


def test_a_strangers_version_is_judged_at_once() -> None:
    """It once took time that doubles with every letter."""
    assert not engine_record._is_version("1.0" + "a" * 5000 + "!")
