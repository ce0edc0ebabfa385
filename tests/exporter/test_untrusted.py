"""What a stranger's ``.keras`` archive may say, before Keras sees it."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import pytest

from exporter import untrusted
from exporter.errors import ExporterError
from exporter.models import checkpoint


def archive(path: Path, **members: Any) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, value in members.items():
            file.writestr(f"{name}.json", json.dumps(value))
    return path


def test_a_member_that_unpacks_without_end_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(untrusted, "_MEMBER_BYTES", 1 << 20)
    path = archive(tmp_path / "bomb.keras", config={"x": "0" * (4 << 20)})
    assert path.stat().st_size < 1 << 14
    with pytest.raises(ExporterError, match=r"config\.json is larger than 1 MiB"):
        untrusted.read_json(path, "config.json", required=True)


@pytest.mark.parametrize(
    ("card", "message"),
    [
        ({"preprocessing": ["unit"]}, "has an unknown preprocessing"),
        ({"preprocessing": 3}, "has an unknown preprocessing: 3"),
        ({"preprocessing": "unit", "classes": 5}, "aren't a list of names"),
        ({"preprocessing": "unit", "classes": "abc"}, "aren't a list of names"),
        ({"preprocessing": "unit", "classes": ["a", 1]}, "aren't a list of names"),
    ],
)
def test_a_card_of_other_types_is_damaged(tmp_path: Path, card: Any, message: str) -> None:
    with pytest.raises(ExporterError, match=message):
        checkpoint.read_card(archive(tmp_path / "a.keras", exporter=card))


def test_a_card_is_read_and_its_absence_is_no_damage(tmp_path: Path) -> None:
    card = {"preprocessing": "unit", "classes": ["a"]}
    assert checkpoint.read_card(archive(tmp_path / "a.keras", exporter=card)) == card
    assert checkpoint.read_card(archive(tmp_path / "b.keras", config={})) == {}
