"""The report's page in a real Chromium: silent, self-contained, as wide as the screen, legible."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from benchmarks.report import build, page, read
from exporter.cli import passport
from tests.benchmarks import browser, results
from tests.benchmarks.browser import Browser, Scheme

PROGRAM = browser.find()
pytestmark = pytest.mark.skipif(
    PROGRAM is None, reason="no Chromium here: apt-get install chromium, or name one in $CHROMIUM"
)
VIEWS: list[tuple[int, Scheme]] = [
    (width, scheme) for width, scheme in product((1280, 768, 390, 320), ("light", "dark"))
]

OVERFLOW = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
UNFOLD = "document.querySelectorAll('details').forEach(one => { one.open = true; })"
# WCAG 2.2's contrast ratio (1.4.3) of each text with what is painted behind it.
CONTRASTS = """(() => {
  const light = text => {
    const [r, g, b] = text.match(/[\\d.]+/g).map(Number).map(c => c / 255)
      .map(c => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const paper = element => {
    for (let at = element; at; at = at.parentElement) {
      const colour = getComputedStyle(at).backgroundColor;
      if (!/, 0\\)$/.test(colour)) return light(colour);
    }
    return light('rgb(255, 255, 255)');
  };
  const found = [];
  for (const element of document.body.querySelectorAll('*')) {
    if (![...element.childNodes].some(n => n.nodeType === 3 && n.data.trim())) continue;
    if (!element.getClientRects().length || element.tagName === 'title') continue;
    const style = getComputedStyle(element);
    const ink = light(element instanceof SVGElement ? style.fill : style.color);
    const behind = paper(element);
    const ratio = (Math.max(ink, behind) + 0.05) / (Math.min(ink, behind) + 0.05);
    found.push([ratio, element.textContent.slice(0, 40)]);
  }
  return found;
})()"""
# Texts of drawings that are cut off, that lie on each other, or that are too small to read.
ILLEGIBLE = """(() => {
  const found = [];
  for (const drawing of document.querySelectorAll('svg.wide, svg.narrow')) {
    const frame = drawing.getBoundingClientRect();
    if (!frame.width) continue;
    const texts = [...drawing.querySelectorAll('text')].filter(t => t.textContent);
    const boxes = texts.map(t => t.getBoundingClientRect());
    texts.forEach((text, i) => {
      const a = boxes[i];
      if (a.left < frame.left - 1 || a.right > frame.right + 1
          || a.top < frame.top - 1 || a.bottom > frame.bottom + 1)
        found.push(['cut off', text.textContent]);
      if (a.height < 10) found.push(['small', text.textContent]);
      for (let j = i + 1; j < texts.length; ++j) {
        const b = boxes[j];
        const across = Math.min(a.right, b.right) - Math.max(a.left, b.left);
        const down = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
        if (across > 1 && down > 4) found.push(['on', text.textContent, texts[j].textContent]);
      }
    });
  }
  return found;
})()"""


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    assert PROGRAM is not None
    with Browser(PROGRAM, tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = results.everything(tmp_path_factory.mktemp("report") / "net")
    findings = read.gather(place, passport.passport_lines)
    file = place / "page.html"
    file.write_text(page.as_html(build.build(findings)))
    return file


@pytest.mark.parametrize(("width", "scheme"), VIEWS)
def test_a_page_as_it_is_read(chromium: Browser, report: Path, width: int, scheme: Scheme) -> None:
    view = chromium.open(report, width, scheme)
    assert view.said == []
    outside = [url for url in view.requests if not url.startswith("data:")]
    assert outside == [report.resolve().as_uri()]
    assert chromium.evaluate(OVERFLOW) == 0
    assert chromium.evaluate(ILLEGIBLE) == []
    chromium.evaluate(UNFOLD)
    assert chromium.evaluate(OVERFLOW) == 0, "with all that folds unfolded"
    texts: list[Any] = chromium.evaluate(CONTRASTS)
    assert len(texts) > 300
    assert [text for text in texts if text[0] < 4.5] == []


def test_light_and_dark_differ(chromium: Browser, report: Path) -> None:
    papers = set()
    for scheme in ("light", "dark"):
        chromium.open(report, 1280, scheme)
        papers.add(chromium.evaluate("getComputedStyle(document.body).backgroundColor"))
    assert len(papers) == 2


def test_each_width_shows_one_drawing_of_a_figure(chromium: Browser, report: Path) -> None:
    for width, shown in ((1280, "wide"), (390, "narrow")):
        chromium.open(report, width, "light")
        seen = "[...document.querySelectorAll('figure svg:not(.mark)')]"
        classes = chromium.evaluate(
            f"{seen}.filter(s => s.getBoundingClientRect().width).map(s => s.classList[0])"
        )
        assert classes, width
        assert set(classes) == {shown}


def test_the_picture_is_decoded(chromium: Browser, report: Path) -> None:
    chromium.open(report, 1280, "light")
    assert chromium.evaluate("document.querySelector('img').naturalWidth") > 100


def test_what_these_tests_look_for_is_found(chromium: Browser, tmp_path: Path) -> None:
    """The page is silent and asks for nothing: a browser that sees neither would say so, too."""
    bad = tmp_path / "bad.html"
    bad.write_text(
        "<!doctype html><body style='margin:0'><p style='width:2000px;color:#ccc'>wide and pale</p>"
        "<svg class='wide' width='100' height='20'><text x='80' y='15'>cut off here</text>"
        "<text x='82' y='16'>over it</text></svg>"
        "<img src='http://127.0.0.1:9/picture.png'><script>console.error('loud')</script>"
    )
    view = chromium.open(bad, 390, "light")
    assert any("loud" in said for said in view.said)
    assert "http://127.0.0.1:9/picture.png" in view.requests
    assert chromium.evaluate(OVERFLOW) > 1000
    assert min(ratio for ratio, _ in chromium.evaluate(CONTRASTS)) < 2
    assert {found[0] for found in chromium.evaluate(ILLEGIBLE)} >= {"cut off", "on"}
