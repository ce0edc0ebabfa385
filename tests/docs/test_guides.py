"""The commands in the documentation run, or say which machine they need."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from tests.conftest import striped_images, write_photos
from tests.exporter.networks import trained

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))

# A mark, then a fence: `<!-- run: NAME -->` or `<!-- needs: WHAT -->`.
BLOCK = re.compile(
    r"^(?:<!-- (?P<mark>run|needs): (?P<what>.+?) -->\n)?"
    r"```(?P<language>bash|python)\n(?P<code>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
LINK = re.compile(r"\]\((?P<target>[^)#\s]*)(?:#(?P<anchor>[^)\s]+))?\)")
# The guides' timings take minutes. A test needs to know only that the command works.
QUICK = r"\g<0> --batch 1 --seconds 0.1 --warm-up 0.2"
# Runs cells as a notebook does, and shows the value of a last line that is an expression.
SHOW_EACH = """
import ast
names = {{}}
for cell in {cells!r}:
    tree = ast.parse(cell)
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, "cell", "exec"), names)
    if last is not None:
        value = eval(compile(ast.Expression(last.value), "cell", "eval"), names)
        if value is not None:
            print(value, getattr(value, "_repr_html_", str)()[:5])
"""
CLASSES = ("across", "down", "plain")


@dataclass(frozen=True)
class Block:
    mark: str | None
    what: str
    language: str
    code: str


def blocks(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    return [
        Block(found["mark"], found["what"] or "", found["language"], found["code"])
        for found in BLOCK.finditer(text)
    ]


WITH_COMMANDS = [page for page in PAGES if any(block.mark == "run" for block in blocks(page))]


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_block_runs_or_says_what_it_needs(page: Path) -> None:
    assert [block.code for block in blocks(page) if block.mark is None] == []


def test_every_guide_has_commands_that_run() -> None:
    guides = {page for page in PAGES if page.parent.name == "guides"}
    assert guides - set(WITH_COMMANDS) == {DOCS / "guides" / "troubleshooting.md"}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, keras: ModuleType) -> Path:
    """Make a folder with `mine.keras` and `photos`, as the guides assume."""
    folder = tmp_path_factory.mktemp("guides")
    for seed, (split, count) in enumerate((("train", 3300), ("test", 150))):
        images, labels = striped_images(count, seed=seed)
        write_photos(folder / "photos" / split, images, labels, CLASSES, mode="RGB")
    images, labels = striped_images(192, seed=2)
    colors = np.repeat(images[..., None], 3, axis=-1)
    trained(keras, colors, labels).save(folder / "mine.keras")
    return folder


@pytest.mark.tf
@pytest.mark.slow
@pytest.mark.parametrize("page", WITH_COMMANDS, ids=name_of)
def test_a_page_runs_from_top_to_bottom(page: Path, place: Path, tmp_path: Path) -> None:
    for given in ("mine.keras", "photos"):
        (tmp_path / given).symlink_to(place / given)
    bin_folder = str(Path(sys.executable).parent)
    environment = {**os.environ, "PATH": f"{bin_folder}{os.pathsep}{os.environ['PATH']}"}
    for block in blocks(page):
        if block.mark != "run":
            continue
        shell = ["bash", "-euo", "pipefail", "-c"]
        code = re.sub(r"^exporter bench \S+", QUICK, block.code, flags=re.MULTILINE)
        command = [*shell, code] if block.language == "bash" else ["python", "-c", code]
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{block.what}: {done.stdout}\n{done.stderr}"


@pytest.mark.tf
@pytest.mark.slow
def test_the_notebook_runs_and_shows_what_it_promises(place: Path, tmp_path: Path) -> None:
    (tmp_path / "photos").symlink_to(place / "photos")
    notebook = json.loads((DOCS / "guides" / "python.ipynb").read_text(encoding="utf-8"))
    cells = ["".join(c["source"]) for c in notebook["cells"] if c["cell_type"] == "code"]
    assert len(cells[1].splitlines()) + sum(len(c.splitlines()) for c in cells[2:4]) < 15
    done = subprocess.run(
        [sys.executable, "-c", SHOW_EACH.format(cells=cells)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    for shown in ("ort, int8", "McNemar", "baseline: the Keras original"):
        assert shown in done.stdout
    assert float(done.stdout.splitlines()[-1]) > 0.5, "it is trained"


@pytest.mark.parametrize(
    "page",
    [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *ROOT.glob("benchmarks/**/README.md")],
    ids=name_of,
)
def test_links_outside_of_the_site(page: Path) -> None:
    """``make site`` checks the links of the site's pages."""
    text = page.read_text(encoding="utf-8")
    broken = []
    for found in LINK.finditer(text):
        target = (page.parent / found["target"]) if found["target"] else page
        if found["target"].startswith("https://"):
            continue
        if not target.exists() or (found["anchor"] and found["anchor"] not in anchors(target)):
            broken.append(found[0])
    assert broken == []


def anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_quoted_errors_exist() -> None:
    """Troubleshooting quotes the words of errors, so that a search finds them."""
    text = (DOCS / "guides" / "troubleshooting.md").read_text(encoding="utf-8")
    quoted = re.findall(r"^`(.+)`\n:   ", text, re.MULTILINE)
    assert len(quoted) > 20
    source = "".join(
        file.read_text(encoding="utf-8")
        for package in ("exporter", "calibration", "benchmarks")
        for file in (ROOT / package).rglob("*.py")
    )
    # A message may be broken over two lines of source.
    joined = re.sub(r'"\n\s*f?"', "", source)
    assert [words for words in quoted if words not in joined] == []


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 220
