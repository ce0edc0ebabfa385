"""The README files say what the result files say."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.readme_tables import DETAILS, README, TABLES, markdown, rewrite


@pytest.mark.parametrize("page", TABLES, ids=lambda page: str(page.parent.name or page.name))
def test_a_page_is_what_the_files_give(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert rewrite(page, text) == text, "run: python -m benchmarks.readme_tables"
    assert "Not measured yet" not in text


@pytest.mark.parametrize(
    ("page", "table", "row"),
    [(README, "speed", "| resnet18 | "), (DETAILS, "export_time", "| `resnet18` | ")],
)
def test_a_changed_figure_is_noticed(page: Path, table: str, row: str) -> None:
    text = page.read_text(encoding="utf-8")
    begin = text.index(f"<!-- {table} -->")
    changed = text[:begin] + text[begin:].replace(row, f"{row}9", 1)
    assert changed != text
    assert rewrite(page, changed) == text


def test_a_missing_table_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"README\.md has 0 tables between <!-- precision -->"):
        rewrite(README, "# exporter\n")


def test_markdown() -> None:
    assert markdown(("a", "b"), [("x", "1")]) == "| a | b |\n| --- | --: |\n| x | 1 |"
