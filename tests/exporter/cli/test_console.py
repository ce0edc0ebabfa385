"""What the terminal shows of an evaluation, at the width it is meant for."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.accuracy.measure import Accuracy, score
from exporter.cli import console
from exporter.cli.names import shorten


def rows() -> list[Accuracy]:
    """Ten classes, 10,000 images; the candidate loses 20 images and wins 8."""
    labels = np.arange(10_000) % 10
    reference = np.eye(10, dtype=np.float32)[labels]
    reference[:500] = np.roll(reference[:500], 1, axis=1)
    candidate = reference.copy()
    candidate[600:620] = np.roll(candidate[600:620], 1, axis=1)
    candidate[:8] = np.roll(candidate[:8], -1, axis=1)
    name = "build/resnet18-int8-onnx (simulated)"
    return [score("keras", reference, labels), score(name, candidate, labels, reference)]


def test_accuracy_table_fits_100_columns(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    console.accuracy_table(rows())
    shown = capsys.readouterr().out
    assert max(map(len, shown.splitlines())) <= 100
    line = next(line for line in shown.splitlines() if "0.9488" in line)
    cells = [cell.strip() for cell in line.split("│")[1:-1]]
    # (9 - 21) / 10002, and 1.96 * sqrt((30 / 10002 - 0.0012 ** 2) / 10002), in points.
    assert cells[1:] == ["0.9488", "-0.12", "-0.23 to -0.01", "0.036", "0.9692", "28", "1.0e+00"]
    assert "McNemar" in shown


def test_json_has_the_paired_test() -> None:
    original, candidate = (row.as_json() for row in rows())
    assert original["paired"] is None
    assert candidate["paired"]["lost"] == 20
    assert candidate["paired"]["won"] == 8
    assert candidate["paired"]["p_value"] == pytest.approx(0.0357, abs=1e-4)


@pytest.mark.parametrize("width", [72, 80, 120])
def test_a_table_is_whole_at_any_width(
    width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    console.accuracy_table(rows())
    drawn = [line for line in capsys.readouterr().out.splitlines() if line[:1] in "┏┃┡│└"]
    assert len({len(line.rstrip()) for line in drawn if line}) == 1
    assert all(line.rstrip()[-1] in "┓┃┩│┘" for line in drawn if line)


@pytest.mark.parametrize("width", [80, 90])
def test_a_path_is_shortened_from_the_left_and_never_broken(
    width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    numbers = ["0.9304", "+0.00", "-0.03 to +0.03", "1", "0.9993", "0", "2.3e-05"]
    columns = ("engine", "top-1", "change", "95% interval", "p", "top-5", "flips", "max error")
    console.table("t", columns, [["keras", *numbers], ["build/deep/down/resnet18-ort", *numbers]])
    shown = capsys.readouterr().out
    assert "resnet18-ort │" in shown
    assert "build" not in shown
    assert max(map(len, shown.splitlines())) <= width


@pytest.mark.parametrize(
    ("names", "wanted", "most", "short"),
    [
        (["keras", "a/b"], 5, 5, ["keras", "a/b"]),
        (["build/resnet18-ort"], 12, 16, ["…/resnet18-ort"]),
        (["one/two/three"], 11, 16, ["…/two/three"]),
        (["build/a-very-long-name"], 6, 10, ["…long-name"]),
        (["build/net (simulated)"], 11, 16, ["build/net (simulated)"]),
        (["one/net", "two/net"], 5, 16, ["one/net", "two/net"]),
    ],
)
def test_names_are_shortened(names: list[str], wanted: int, most: int, short: list[str]) -> None:
    assert shorten(names, wanted, most) == short


def test_short_names_stay_whole(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    console.table("t", ["rung", *"abcd"], [["simulated", *["-0.03 to +0.03"] * 4]])
    assert "simulated" in capsys.readouterr().out


def test_brackets_in_what_a_file_says_are_only_brackets(capsys: pytest.CaptureFixture[str]) -> None:
    """A closing tag of nothing once ended a finished export with a trace."""
    console.facts("a[/x]", [("warning", "[/y] [red]not red"), ("[b]", "v")])
    shown = capsys.readouterr().out
    assert all(text in shown for text in ("a[/x]", "[/y] [red]not red", "[b]"))
