"""What the site does to its pages: marks become text, and nothing comes from the network.

``mkdocs build --strict`` fails on each warning from here.
"""

from __future__ import annotations

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
MARK = re.compile(r"<!-- /?(?:run: |ran|[\w:-]+).*?-->")
LOADS = re.compile(
    r"<(?:script|img|iframe|source|video)\b[^>]*\bsrc=[\"']?(?:https?:)?//[^\s\"'>]+"
    r"|<link\b(?![^>]*\brel=[\"']?canonical)[^>]*\bhref=[\"']?(?:https?:)?//[^\s\"'>]+"
)


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Put generated parts in, say what a block needs, and take the other marks out."""
    if "<!-- machines -->" in markdown:
        markdown = markdown.replace("<!-- machines -->", machines())
    if "<!-- layout -->" in markdown:
        markdown = markdown.replace("<!-- layout -->", layout())
    markdown = NEEDS.sub(
        lambda found: f'<p class="needs">Needs {found["what"]}. The tests do not run this.</p>\n',
        markdown,
    )
    return MARK.sub("", markdown)


def on_post_page(output: str, page: Any, **_: Any) -> str:
    """Warn of everything that a page would load from another machine."""
    for found in LOADS.findall(output):
        LOG.warning("%s loads from the network: %s", page.file.src_path, found[:200])
    return output


def machines() -> str:
    """Write the table of machines that ``exporter doctor --for`` knows."""
    from exporter.engines.machines import MACHINES

    lines = [
        "| name | GPU | compute capability | TensorRT | DLA cores |",
        "|---|---|---|---|---|",
    ]
    for row in MACHINES.values():
        cells = (
            f"`{row.name}`",
            row.gpu,
            _cell(row.compute_capability, "compute_capability", row.unverified),
            _cell(row.tensorrt, "tensorrt", row.unverified),
            _cell(row.dla_cores, "dla_cores", row.unverified),
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(value: object, field: str, unverified: tuple[str, ...]) -> str:
    shown = "-" if value is None else str(value)
    return f"{shown} \\*" if field in unverified else shown


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
        f'<svg class="layout" viewBox="-1 -1 {_WIDTH + 2} {height + 2}" role="img" '
        f'aria-label="The rooms, from the top down: {escape("; ".join(layers), quote=True)}">'
        f"{''.join(parts)}</svg>"
    )


def _files(room: str) -> str:
    folder = ROOT.joinpath(*room.split("."))
    files = [path for path in folder.rglob("*.py") if path.name != "__init__.py"]
    return f" ({len(files)} files)" if files else ""
