"""A file is whole or as it was, whatever stops the writing."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from calibration.whole_file import write_whole


@pytest.mark.parametrize(
    "content", ["two lines\nwith \N{LATIN SMALL LETTER E WITH ACUTE}\n", b"\0x"]
)
def test_it_replaces_what_was_there(tmp_path: Path, content: str | bytes) -> None:
    file = tmp_path / "a"
    file.write_text("old")
    write_whole(file, content)
    assert file.read_bytes() == (content if isinstance(content, bytes) else content.encode())
    assert os.listdir(tmp_path) == ["a"]


@pytest.mark.parametrize("content", ["\ud800", "new"])
def test_what_fails_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str
) -> None:
    def full(*_: object) -> None:
        raise OSError("disk full")

    file = tmp_path / "a"
    file.write_text("old")
    monkeypatch.setattr(os, "replace", full)
    with pytest.raises((OSError, UnicodeEncodeError)):
        write_whole(file, content)
    assert file.read_text() == "old"
    assert os.listdir(tmp_path) == ["a"]


def test_a_link_is_replaced_and_not_followed(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_text("theirs")
    (tmp_path / "a").symlink_to(elsewhere)
    write_whole(tmp_path / "a", "ours")
    assert elsewhere.read_text() == "theirs"
    assert (tmp_path / "a").read_text() == "ours"
    assert not (tmp_path / "a").is_symlink()


def test_others_may_read_as_far_as_the_umask_lets_them(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_whole(tmp_path / "a", "x")
    finally:
        os.umask(before)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o640
