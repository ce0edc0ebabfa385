"""The pages say what the result files say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks.studies.doc_tables import (
    DETAILS,
    RESULTS_PAGE,
    ROOT,
    fp8_summary,
    pages,
    rewrite,
)
from benchmarks.studies.study import markdown


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_a_page_is_what_the_files_give(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert rewrite(page, text) == text, "run: python -m benchmarks.studies.doc_tables"
    assert "Not measured yet" not in text


@pytest.mark.parametrize(
    ("page", "table", "row"),
    [(RESULTS_PAGE, "speed", "| resnet18 | "), (DETAILS, "export_time", "| `resnet18` | ")],
)
def test_a_changed_figure_is_noticed(page: Path, table: str, row: str) -> None:
    text = page.read_text(encoding="utf-8")
    begin = text.index(f"<!-- {table} -->")
    changed = text[:begin] + text[begin:].replace(row, f"{row}9", 1)
    assert changed != text
    assert rewrite(page, changed) == text


def test_a_missing_table_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"results\.md has 0 tables between <!-- precision -->"):
        rewrite(RESULTS_PAGE, "# exporter\n")


def test_markdown() -> None:
    assert markdown(("a", "b"), [("x", "1")]) == "| a | b |\n| --- | --: |\n| x | 1 |"


def test_fp8_and_int8_of_one_network_share_a_line() -> None:
    def row(engine: str, flips: int) -> dict[str, Any]:
        paired = {"change_points": -0.1, "p_value": 0.5}
        layers = {"layers_quantized": 20, "layers_in_float": 1}
        against = {"label_flips": flips}
        return {"engine": engine, "paired": paired, "against_keras": against, **layers}

    keras = {"correct": 9304}
    fp8 = {"model": "net", "keras": keras, "results": [row("onnx-fp8-mse", 53)]}
    int8 = {"model": "net", "keras": keras, "results": [row("onnx-mse-fp16", 37)]}
    assert fp8_summary(fp8, int8).splitlines()[2] == (
        "| `net` | 20 of 21 | 9,304 | 37 flips, -0.10 (p 0.5) | 53 flips, -0.10 (p 0.5) |"
    )
    with pytest.raises(ValueError, match="unpack"):  # another original is another network
        fp8_summary(fp8, {**int8, "keras": {"correct": 9}})
