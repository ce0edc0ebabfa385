"""The README says what the result files say."""

from __future__ import annotations

import pytest

from benchmarks.readme_tables import README, markdown, rewrite


def test_the_readme_is_what_the_files_give():
    text = README.read_text(encoding="utf-8")
    assert rewrite(text) == text, "run: python -m benchmarks.readme_tables"


def test_a_changed_figure_is_noticed():
    text = README.read_text(encoding="utf-8")
    begin = text.index("<!-- export_time -->")
    changed = text[:begin] + text[begin:].replace("| `resnet18` | ", "| `resnet18` | 9", 1)
    assert changed != text
    assert rewrite(changed) == text


def test_a_missing_table_is_an_error():
    with pytest.raises(ValueError, match="has 0 tables between <!-- export_time -->"):
        rewrite("# exporter\n")


def test_markdown():
    assert markdown(("a", "b"), [("x", "1")]) == "| a | b |\n| --- | --: |\n| x | 1 |"
