"""The report's data and markup, with no browser: what was measured, and nothing else."""

from __future__ import annotations

import json
import math
import os
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from benchmarks.report import build, page, read
from benchmarks.report.blocks import Figure, Fold, Picture, Table
from exporter.artifact import folder as artifact
from exporter.cli import passport
from exporter.cli.main import main
from exporter.errors import WrongUse
from tests.benchmarks import results
from tests.benchmarks.latency_jobs import tiny

VOID = {"meta", "link", "br", "img"}
EVIL = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>|`*"


class Markup(HTMLParser):
    """Reads a page: its elements, whether they close in order, and the text of each table."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.tables: list[list[list[str]]] = []
        self.feed(text)
        self.close()
        assert not self.open, self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("th", "td"):
            self.tables[-1][-1].append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, tag

    def handle_data(self, text: str) -> None:
        if self.open and self.open[-1] in ("th", "td"):
            self.tables[-1][-1][-1] += text

    def named(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return results.everything(tmp_path_factory.mktemp("report") / "net")


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["report", *map(str, arguments)])


def html_of(place: Path) -> str:
    return page.as_html(build.build(read.gather(place, passport.passport_lines)))


def test_a_page_has_all_parts_and_needs_nothing_else(folder: Path) -> None:
    text = html_of(folder)
    found = Markup(text)
    ids = [each["id"] for each in found.named("section")]
    assert ids == ["summary", "trade", "latency", "accuracy", "drift", "layers", "passports"]
    assert not found.named("script")
    assert not [a for _, a in found.elements if {"onclick", "onload", "style"} & a.keys()]
    assert {a["href"] for a in found.named("a")} == {f"#{key}" for key in ids}
    sources = [a["src"] or "" for a in found.named("img")]
    assert len(sources) == 1
    assert sources[0].startswith("data:image/png;base64,iVBORw0KGgo")
    outside = set(re.findall(r"https?://[^\s\"'<)]+", text)) - {"http://www.w3.org/2000/svg"}
    assert not outside
    assert "@import" not in text
    assert "url(" not in text


def test_every_figure_is_also_a_table(folder: Path) -> None:
    laid_out = build.build(read.gather(folder, passport.passport_lines))
    blocks = [block for section in laid_out.sections for block in section.blocks]
    figures = [block for block in blocks if isinstance(block, (Figure, Picture))]
    assert len(figures) == 9  # the trade-off, 3 batch sizes, the curve, rungs, flips, noise, costs
    assert all(figure.table.rows for figure in figures)
    found = Markup(page.as_html(laid_out))
    assert len(found.named("figure")) == len(figures)
    drawn = [a for a in found.named("svg") if "wide" in (a["class"] or "")]
    assert len(drawn) == sum(len(f.drawings) for f in figures if isinstance(f, Figure))
    assert all(a["aria-label"] for a in drawn)


def test_tables_say_what_the_files_say(folder: Path) -> None:
    written = json.loads((folder / "bench.json").read_text())
    tables = Markup(html_of(folder)).tables
    whole = next(t for t in tables if t[0][:2] == ["engine", "batch"])
    for row, shown in zip(written["rows"], whole[1:], strict=True):
        assert shown[1] == str(row["batch"])
        assert [float(cell) for cell in shown[2:5]] == pytest.approx(
            [row["quantiles_ms"][p] for p in ("50", "90", "99")], abs=5e-4
        )
        if row["speedup"]:
            assert shown[6] == f"{row['speedup']['ratio']:.2f}x"
    kept = artifact.read(folder / "net-int8").passport["measured"]["accuracy"]
    beside = {row[0]: row for row in tables[0][1:]}
    assert beside["net-int8"][2] == f"{100 * kept['top1']:.2f}"
    assert float(beside["net-int8"][3].replace("\N{MINUS SIGN}", "-")) == pytest.approx(
        kept["paired"]["change_points"], abs=5e-3
    )
    assert beside["Keras, compiled"][2] == f"{100 * kept['keras']['top1']:.2f}"


def test_the_first_sentence_is_of_the_fastest(folder: Path) -> None:
    said = build.build(read.gather(folder, passport.passport_lines)).verdicts[0]
    assert said.startswith("net-int8 (ort INT8) is 11.")
    assert "as fast as the compiled Keras original at batch 1 (95% interval" in said
    assert "has a top-1 of 87.25%, +1.50 points from Keras on 400 images" in said
    assert said.endswith("within chance.")


def test_one_artefact_tells_as_much_by_its_passport_alone(folder: Path) -> None:
    alone = read.gather(folder / "net-int8", passport.passport_lines)
    whole = read.gather(folder, passport.passport_lines)
    (bench,) = alone.benches
    assert len(whole.benches) == 1, "the passports repeat what bench.json says"
    for batch in (1, 8, 32):
        for engine, path in (("keras", "keras"), ("net-int8", str(folder / "net-int8"))):
            mine, theirs = bench.find(path, batch), whole.benches[0].find(path, batch)
            assert mine is not None, engine
            assert theirs is not None
            assert (mine.quantiles_ms, mine.speedup) == (theirs.quantiles_ms, theirs.speedup)
    missing = [what for what, _ in build.todo(alone)]
    assert missing == ["the drift ladder", "layer sensitivities"]


def test_what_was_exported_after_the_measurement_is_another_artefact(tmp_path: Path) -> None:
    place = results.everything(tmp_path / "net")
    written = json.loads((place / "net-int8" / "passport.json").read_text())
    written |= {"created": "2999-01-01T00:00:00+00:00"}
    del written["measured"]
    (place / "net-int8" / "passport.json").write_text(json.dumps(written))
    findings = read.gather(place, passport.passport_lines)
    assert findings.subject("net-int8", results.DATE) is None
    assert findings.score(str(place / "net-int8"), results.DATE) is None
    assert findings.score(str(place / "net-fp32"), results.DATE) is not None


def test_where_and_with_which_command(folder: Path) -> None:
    text = re.sub(r"</?span[^>]*>", "", html_of(folder))
    assert "2026-03-04 05:06 UTC; A CPU made up, 2 cores, Linux; onnxruntime 1.2.3" in text
    assert f"exporter bench {folder}/net-fp32 {folder}/net-int8 --against keras,keras-xla " in text
    assert "--batch 1,8,32 --threads 2 --rounds 5 --seconds 2" in text
    assert f"exporter evaluate {folder}/net-int8 --data {results.DATA} --ladder --layers" in text
    assert re.search(r"exporter sensitivity \S+ --scheme (cpu|tensorrt) --images \d+ --json", text)
    assert text.count("Measured:") >= 4


def test_nothing_in_a_file_is_markup(tmp_path: Path) -> None:
    place = results.everything(tmp_path / "net")
    for file in place.rglob("*.json"):
        # Class names, engines, layers, verdicts, data, machine, versions: all at once.
        value = json.loads(file.read_text())
        file.write_text(json.dumps(_spoiled(value)))
    text = html_of(place)
    found = Markup(text)
    assert not found.named("script")
    assert {a["alt"] is not None for a in found.named("img")} == {True}
    assert EVIL not in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text
    markdown = page.as_markdown(build.build(read.gather(place, passport.passport_lines)))
    # An escaped ` opens no code; within code nothing is escaped, and no ` is left.
    outside_code = re.sub(r"`[^`]*`|^    .*$", "", markdown.replace("\\`", ""), flags=re.MULTILINE)
    assert "<script" not in outside_code
    assert "<img" not in outside_code


def _spoiled(value: Any, key: str = "") -> Any:
    """Add what could be markup to every text that does not decide what is what."""
    if isinstance(value, dict):
        return {name: _spoiled(each, name) for name, each in value.items()}
    if isinstance(value, list):
        return [_spoiled(each, key) for each in value]
    fixed = {"target", "precision", "benchmark", "scenario", "baseline", "date", "created", "rung"}
    fixed |= {"sha256", "engine"}
    return value + EVIL if isinstance(value, str) and key not in fixed else value


def leaves(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inside = value.items() if isinstance(value, dict) else enumerate(value)
    found = [path] if path else []
    for key, each in inside:
        found += leaves(each, (*path, key)) if isinstance(each, (dict, list)) else [(*path, key)]
    return found


WRONG = st.sampled_from([None, True, -1, 0, 1e308, math.nan, math.inf, "", "x", [], {}, [[]], [{}]])


def test_sensitivities_of_no_layer_are_told_of(folder: Path) -> None:
    file = folder / "sensitivity.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "layers": []}))
    findings = read.gather(folder, passport.passport_lines)
    assert findings.sensitivities == ()
    assert "'layers' is empty" in page.as_markdown(build.build(findings))


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(choose=st.data())
def test_no_damage_breaks_a_page(folder: Path, tmp_path: Path, choose: st.DataObject) -> None:
    """Any value of any file, replaced or gone: the rest is shown, or the file is told of."""
    names = ["bench.json", "drift/ladder.json", "sensitivity.json", "net-int8/passport.json"]
    name = choose.draw(st.sampled_from(names))
    value = json.loads((folder / name).read_text())
    *above, key = choose.draw(st.sampled_from(leaves(value)))
    where = value
    for step in above:
        where = where[step]
    if choose.draw(st.booleans()):
        where[key] = choose.draw(WRONG)
    else:
        del where[key]
    damaged = tmp_path / "damaged" / name
    damaged.parent.mkdir(parents=True, exist_ok=True)
    damaged.write_text(json.dumps(value))
    try:
        findings = read.gather(tmp_path / "damaged", passport.passport_lines)
    except WrongUse:  # nothing is left to report
        return
    finally:
        damaged.unlink()
    laid_out = build.build(findings)
    page.as_markdown(laid_out)
    Markup(page.as_html(laid_out))


@pytest.mark.parametrize("content", ["", "{", "[" * 100_000, "[]", "1", '{"benchmark": "latency"}'])
def test_a_file_that_is_no_result_is_told_or_left_alone(tmp_path: Path, content: str) -> None:
    tiny(tmp_path / "a")
    (tmp_path / "other.json").write_text(content)
    findings = read.gather(tmp_path, passport.passport_lines)
    assert len(findings.subjects) == 1
    told = [one.file for one in findings.missed]
    assert told == ([] if content in ("[]", "1") else ["other.json"])


def test_links_are_not_followed(folder: Path, tmp_path: Path) -> None:
    tiny(tmp_path / "a")
    (tmp_path / "bench.json").symlink_to(folder / "bench.json")
    (tmp_path / "more").symlink_to(folder)
    drift = tmp_path / "drift"
    drift.mkdir()
    (drift / "ladder.json").write_bytes((folder / "drift" / "ladder.json").read_bytes())
    (drift / "flips.png").symlink_to(folder / "drift" / "flips.png")
    findings = read.gather(tmp_path, passport.passport_lines)
    assert not findings.benches
    assert len(findings.subjects) == 1
    assert findings.drifts[0].picture is None


def test_a_picture_that_is_none_is_left_out(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "ladder.json").write_bytes((folder / "drift" / "ladder.json").read_bytes())
    (tmp_path / "flips.png").write_text("<svg onload=alert(1)>")
    assert not Markup(html_of(tmp_path)).named("img")


def test_a_simulation_and_what_no_gpu_ran_say_so(tmp_path: Path) -> None:
    tiny(tmp_path / "onnx", precision="int8", target="onnx")
    text = html_of(tmp_path)
    assert "simulation: Q/DQ and FP16 executed as written on the CPU; not run on a GPU" in text
    findings = read.gather(tmp_path, passport.passport_lines)
    rtx = {**findings.subjects[0].artifact.passport, "target": "trt-rtx"}
    for told in ({}, {"trt-rtx": {"executed": "not run on a GPU"}}):
        one = read.Subject(artifact.Artifact(tmp_path, {**rtx, **told}), ())
        assert one.caution == "not run on a GPU"


def test_an_unstable_run_is_told_at_the_top(tmp_path: Path) -> None:
    place = results.everything(tmp_path / "net")
    value = json.loads((place / "bench.json").read_text())
    value["unstable"] = ["other processes took up to 40% of a core"]
    (place / "bench.json").write_text(json.dumps(value))
    text = html_of(place)
    assert "Unstable latency (bench.json): other processes took up to 40% of a core." in text
    assert text.index("Unstable latency") < text.index("<main>")
    assert "No sign of a disturbed machine" not in text


def test_an_engine_that_failed_is_named(tmp_path: Path) -> None:
    place = results.everything(tmp_path / "net")
    value = json.loads((place / "bench.json").read_text())
    row = next(r for r in value["rows"] if r["engine"] == "keras-xla" and r["batch"] == 8)
    row |= {"blocks": [], "quantiles_ms": {}, "speedup": None, "error": "ended with 9"}
    (place / "bench.json").write_text(json.dumps(value))
    assert "Keras, XLA, batch 8, failed: ended with 9" in html_of(place)


def test_the_command_writes_what_is_asked_for(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shown = run(folder)
    assert (shown.exit_code, shown.stdout) == (0, "report.html\n"), shown.output
    assert "<title>tiny: exporter report</title>" in (tmp_path / "report.html").read_text()
    (tmp_path / "report.html").unlink()
    told = json.loads(run(folder, "--json").stdout)
    assert told["title"] == "tiny"
    assert told["verdicts"][0].startswith("net-int8")
    assert [row["batch"] for row in told["latency"][0]["rows"]] == [1] * 4 + [8] * 4 + [32] * 4
    assert told["artefacts"][1]["passport"]["precision"] == "int8"
    assert run(folder, "--markdown", "r.md").stdout == "r.md\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["r.md"], "no page unasked"
    lines = (tmp_path / "r.md").read_text().splitlines()
    assert lines[0] == "# tiny"
    widths = {line.count(" | ") for line in lines if line.startswith("| net-int8 | ort")}
    assert len(widths) == 1
    assert run(folder, "-o", "p.html", "--markdown", "r.md").stdout == "p.html\nr.md\n"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nowhere"], "no such folder"),
        (["."], "nothing to report"),
        (["FOLDER", "-o", "/dev/null/page.html"], "is a file"),
        (["FOLDER", "-o", "same", "--markdown", "./same"], "the same file"),
    ],
)
def test_wrong_use(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    said: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    result = run(*(folder if part == "FOLDER" else part for part in arguments))
    assert result.exit_code == 2, result.output
    assert said in result.stderr
    assert not list(tmp_path.iterdir())


def test_a_page_is_written_whole_or_not_at_all(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = tmp_path / "page.html"
    old.write_text("the old page")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    result = run(folder, "-o", old)
    assert result.exit_code == 1
    assert "No space left on device" in result.stderr
    assert old.read_text() == "the old page"
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]


def test_passports_fold_and_are_whole(folder: Path) -> None:
    laid_out = build.build(read.gather(folder, passport.passport_lines))
    (section,) = [section for section in laid_out.sections if section.key == "passports"]
    folds = [block for block in section.blocks if isinstance(block, Fold)]
    assert [fold.title for fold in folds] == ["net-fp32", "net-int8"]
    files = next(block for block in folds[1].blocks if isinstance(block, Table))
    assert files.rows[0][2] == artifact.sha256(folder / "net-int8" / "model.onnx")
