"""Render a page as HTML or Markdown. The HTML is one file, with no scripts or network access."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from markupsafe import Markup

from benchmarks.report.blocks import (
    Block,
    Code,
    Facts,
    Figure,
    Fold,
    Heading,
    Page,
    Picture,
    Source,
    Table,
    Words,
)
from calibration.whole_file import write_whole
from exporter.errors import ExporterError

_LONGEST_CODE = 20_000


def as_html(page: Page) -> str:
    """Render a page as one HTML file; all text is escaped."""
    return _template().render(page=page)


@cache
def _template() -> Template:
    loader = PackageLoader("benchmarks.report")
    environment = Environment(
        loader=loader,
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.tests["kind"] = lambda block, name: type(block).__name__ == name
    environment.filters["data_uri"] = _data_uri
    style, _, _ = loader.get_source(environment, "page.css")
    return environment.get_template("page.html.j2", globals={"style": Markup(style)})


def _data_uri(path: Path) -> str:
    return f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode('ascii')}"


def as_markdown(page: Page) -> str:
    """Render a page as Markdown, with a table in place of each figure."""
    lines = [f"# {_plain(page.title)}", "", _plain(page.subtitle), ""]
    lines += [f"- {_plain(verdict)}" for verdict in page.verdicts]
    lines += [f"- **{_plain(caution)}**" for caution in page.cautions]
    for section in page.sections:
        lines += ["", f"## {_plain(section.title)}"]
        for block in section.blocks:
            lines += ["", *_block(block)]
    if page.todo:
        lines += ["", "## Not measured yet", ""]
        lines += [f"- {_plain(what)}: {_code(command)}" for what, command in page.todo]
    if page.missed:
        lines += ["", "## Not shown", ""]
        lines += [f"- {_code(file)}: {_plain(why)}" for file, why in page.missed]
    return "\n".join(lines) + "\n"


def _block(block: Block) -> list[str]:
    if isinstance(block, Table):
        return _table(block)
    if isinstance(block, Figure):
        note = ["", _plain(block.note)] if block.note else []
        return [*_table(block.table), *note]
    if isinstance(block, Picture):
        return _table(block.table)
    if isinstance(block, Words):
        return [_plain(block.text) if block.tone == "plain" else f"**{_plain(block.text)}**"]
    if isinstance(block, Source):
        return [f"Measured: {_plain(block.where)}; {_code(block.command)}; {_code(block.file)}"]
    if isinstance(block, Facts):
        return _table(Table("", ("", ""), block.pairs, words=(0, 1)))
    if isinstance(block, Heading):
        return [f"### {_plain(block.title)}"]
    if isinstance(block, Fold):
        inside = [line for each in block.blocks for line in ("", *_block(each))]
        title = f"{_plain(block.title)} {_plain(block.hint)}".strip()
        return ["<details>", f"<summary>{title}</summary>", *inside, "", "</details>"]
    assert isinstance(block, Code)
    if len(block.text) > _LONGEST_CODE:
        return [f"Left out: {len(block.text):,} characters. See the HTML page."]
    return [f"    {line}" for line in block.text.splitlines()]


def _table(table: Table) -> list[str]:
    head = [f"**{_plain(table.caption)}**", ""] if table.caption else []
    rule = ["---" if i in table.words else "---:" for i in range(len(table.columns))]
    rows: list[Sequence[str]] = [[_plain(cell) for cell in table.columns], rule]
    rows += [[_plain(cell) for cell in row] for row in table.rows]
    return [*head, *(f"| {' | '.join(row)} |" for row in rows)]


def _plain(text: str) -> str:
    """Escape a text for Markdown and for HTML inside Markdown."""
    joined = " ".join(text.split())
    escaped = "".join(f"\\{letter}" if letter in "\\`*_[]|#~" else letter for letter in joined)
    return escaped.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _code(text: str) -> str:
    return f"`{' '.join(text.split()).replace('`', chr(39)).replace('|', chr(92) + '|')}`"


def write(text: str, file: Path) -> None:
    """Write a file atomically.

    Raises:
        ExporterError: it can't be written there.
    """
    try:
        write_whole(file, text)
    except OSError as error:
        raise ExporterError(f"can't write {file}: {error.strerror}") from error
