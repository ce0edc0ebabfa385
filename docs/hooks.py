"""What the site does to its pages: marks become text, and nothing comes from the network.

``mkdocs build --strict`` fails on each warning from here.
"""

from __future__ import annotations

import logging
import re
from typing import Any

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
    """Say what a block needs, and take the other marks out."""
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
