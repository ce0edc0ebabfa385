"""What the site does to its pages: marks become text, and nothing comes from the network.

``mkdocs build --strict`` fails on each warning from here.
"""

from __future__ import annotations

import json
import logging
import re
import sys
from html import escape
from pathlib import Path
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]

LOG = logging.getLogger("mkdocs.hooks.exporter")

# `<!-- needs: a Jetson -->` before a block: the tests don't run it, and the reader is told why.
NEEDS = re.compile(r"^<!-- needs: (?P<what>.+?) -->$", re.MULTILINE)
# Marks of generated tables and claims, and of blocks that tests run: nothing to show.
MARK = re.compile(r"<!-- /?[\w:-]+.*?-->")
ROLE = re.compile(r":(?:attr|class|data|exc|func|meth|mod):\s*(?=<)")
LOADS = re.compile(
    r"<(?:script|img|iframe|source|video)\b[^>]*\bsrc=[\"']?(?:https?:)?//[^\s\"'>]+"
    r"|<link\b(?![^>]*\brel=[\"']?canonical)[^>]*\bhref=[\"']?(?:https?:)?//[^\s\"'>]+"
)


def on_files(files: Any, config: Any) -> Any:
    """Show each notebook as a page: its text, and its code in blocks."""
    from mkdocs.structure.files import File

    for notebook in [file for file in files if file.src_uri.endswith(".ipynb")]:
        uri = notebook.src_uri.removesuffix(".ipynb") + ".md"
        content = as_page(Path(notebook.abs_src_path).read_text(encoding="utf-8"))
        files.append(File.generated(config, uri, content=content))
    return files


def as_page(notebook: str) -> str:
    """Return a notebook as Markdown."""
    parts = []
    for cell in json.loads(notebook)["cells"]:
        text = "".join(cell["source"])
        parts.append(f"```python\n{text}\n```" if cell["cell_type"] == "code" else text)
    return "\n\n".join(parts) + "\n"


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Put generated parts in, say what a block needs, and take the other marks out."""
    for make in (commands, machines, layout):
        mark = f"<!-- {make.__name__} -->"
        if mark in markdown:
            markdown = markdown.replace(mark, make())
    markdown = NEEDS.sub(
        lambda found: f'<p class="needs">Needs {found["what"]}. The tests do not run this.</p>\n',
        markdown,
    )
    return MARK.sub("", markdown)


def on_page_content(html: str, **_: Any) -> str:
    """Take Sphinx's roles out of docstrings: mkdocstrings shows them as text."""
    return ROLE.sub("", html)


def on_post_page(output: str, page: Any, **_: Any) -> str:
    """Warn of everything that a page would load from another machine."""
    for found in LOADS.findall(output):
        LOG.warning("%s loads from the network: %s", page.file.src_path, found[:200])
    return output


def commands() -> str:
    """Write what ``--help`` prints, of the program and of each command."""
    import click

    from exporter.cli.main import main

    program = click.Context(main, info_name="exporter", terminal_width=80)
    parts = [f"```text\n{main.get_help(program)}\n```"]
    for name in main.list_commands(program):
        command = main.get_command(program, name)
        context = click.Context(command, info_name=name, parent=program, terminal_width=80)
        parts.append(f"## exporter {name}\n\n```text\n{command.get_help(context)}\n```")
    return "\n\n".join(parts)


def machines() -> str:
    """Write the table of machines that ``exporter doctor --for`` knows."""
    from benchmarks.studies.study import markdown
    from exporter.engines.machines import MACHINES

    fields = ("compute_capability", "tensorrt", "dla_cores")
    header = ("name", "GPU", "compute capability", "TensorRT", "DLA cores")
    rows = (
        (f"`{row.name}`", row.gpu, *(_cell(row, field) for field in fields))
        for row in MACHINES.values()
    )
    return markdown(header, rows, words=len(header))


def _cell(row: Any, field: str) -> str:
    value = getattr(row, field)
    shown = "-" if value is None else str(value)
    return f"{shown} \\*" if field in row.unverified else shown


_BOX, _GAP, _ROW, _WIDTH = 30, 8, 46, 720


def layout() -> str:
    """Draw the layers of the import contract, from the top down, with the files of each room."""
    config = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    contracts = config["tool"]["importlinter"]["contracts"]
    (layers,) = (each["layers"] for each in contracts if each["type"] == "layers")
    parts = []
    for index, layer in enumerate(layers):
        rooms = [room.strip() for room in layer.split("|")]
        width = (_WIDTH - _GAP * (len(rooms) - 1)) / len(rooms)
        for place, room in enumerate(rooms):
            x, y = place * (width + _GAP), index * _ROW
            words = f"{room}{_files(room)}"
            parts.append(
                f'<rect x="{x:.0f}" y="{y}" width="{width:.0f}" height="{_BOX}" rx="5"/>'
                f'<text x="{x + width / 2:.0f}" y="{y + 20}">{escape(words)}</text>'
            )
        if index:
            middle, top = _WIDTH / 2, index * _ROW
            parts.append(f'<path d="M{middle:.0f} {top - 13}v10m-4 -4l4 4l4 -4"/>')
    height = len(layers) * _ROW - _ROW + _BOX
    return (
        f'<div class="layout"><svg viewBox="-1 -1 {_WIDTH + 2} {height + 2}" role="img" '
        f'aria-label="The rooms, from the top down: {escape("; ".join(layers), quote=True)}">'
        f"{''.join(parts)}</svg></div>"
    )


def _files(room: str) -> str:
    folder = ROOT.joinpath(*room.split("."))
    files = [path for path in folder.rglob("*.py") if path.name != "__init__.py"]
    return f" ({len(files)} files)" if files else ""
