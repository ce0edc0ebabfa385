"""The blocks of a page, before rendering to HTML or Markdown. Every figure has a table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from markupsafe import Markup

Tone = Literal["plain", "caution", "key"]


@dataclass(frozen=True)
class Table:
    """Rows of text.

    Attributes:
        caption: what it shows, with units.
        columns: their titles.
        rows: as many cells each.
        words: indices of the text columns; the others hold numbers and are right-aligned.
        folded: whether it starts collapsed.
    """

    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    words: tuple[int, ...] = (0,)
    folded: bool = False


@dataclass(frozen=True)
class Key:
    """What a mark in a figure stands for."""

    css: str
    shape: str
    words: str


@dataclass(frozen=True)
class Figure:
    """A drawing, or several side by side.

    Attributes:
        title: what it shows.
        drawings: SVG.
        table: the same data as numbers.
        keys: a legend, if the drawing does not label its marks.
        note: how to read it.
    """

    title: str
    drawings: tuple[Markup, ...]
    table: Table
    keys: tuple[Key, ...] = ()
    note: str = ""


@dataclass(frozen=True)
class Picture:
    """A PNG, embedded in the page."""

    title: str
    path: Path
    table: Table


@dataclass(frozen=True)
class Words:
    """A paragraph; cautions are highlighted."""

    text: str
    tone: Tone = "plain"


@dataclass(frozen=True)
class Source:
    """The origin of the numbers: machine and date, command, file."""

    where: str
    command: str
    file: str


@dataclass(frozen=True)
class Facts:
    """Names and values."""

    pairs: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Code:
    """Preformatted text."""

    text: str


@dataclass(frozen=True)
class Fold:
    """Blocks that start collapsed."""

    title: str
    blocks: tuple[Block, ...]
    hint: str = ""


@dataclass(frozen=True)
class Heading:
    """The title of what follows in a section."""

    title: str


Block = Table | Figure | Picture | Words | Source | Facts | Code | Fold | Heading


@dataclass(frozen=True)
class Section:
    """A part of the page; its anchor is its key."""

    key: str
    title: str
    blocks: tuple[Block, ...]


@dataclass(frozen=True)
class Card:
    """One number in large type."""

    value: str
    name: str
    note: str = ""


@dataclass(frozen=True)
class Page:
    """A whole page.

    Attributes:
        title: the network.
        subtitle: what it is.
        verdicts: one sentence per finding, the most important first.
        cautions: warnings that the reader must see.
        cards: the key numbers of one artifact, ``cards_of``.
        cards_of: the artifact that the cards describe.
        sections: the sections that are not empty.
        todo: what is not measured yet, with the command that measures it.
        missed: files that are not shown, with the reason.
    """

    title: str
    subtitle: str
    verdicts: tuple[str, ...]
    cautions: tuple[str, ...]
    cards: tuple[Card, ...]
    cards_of: str
    sections: tuple[Section, ...]
    todo: Sequence[tuple[str, str]]
    missed: Sequence[tuple[str, str]]
