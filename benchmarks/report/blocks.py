"""What a page is built of, before it is HTML or Markdown. A figure always comes with its table."""

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
        words: the columns that are words, by index; the others are numbers, aligned as such.
        folded: whether it waits to be unfolded.
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
        table: the same as numbers.
        keys: where the drawing does not name its marks.
        note: how to read it.
    """

    title: str
    drawings: tuple[Markup, ...]
    table: Table
    keys: tuple[Key, ...] = ()
    note: str = ""


@dataclass(frozen=True)
class Picture:
    """A PNG, carried in the page."""

    title: str
    path: Path
    table: Table


@dataclass(frozen=True)
class Words:
    """A paragraph; one that is a caution stands out."""

    text: str
    tone: Tone = "plain"


@dataclass(frozen=True)
class Source:
    """Where figures come from: place and time, the command, the file."""

    where: str
    command: str
    file: str


@dataclass(frozen=True)
class Facts:
    """Names and values."""

    pairs: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Code:
    """Text as it is."""

    text: str


@dataclass(frozen=True)
class Fold:
    """What waits to be unfolded."""

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
    """A figure large enough to be seen from afar."""

    value: str
    name: str
    note: str = ""


@dataclass(frozen=True)
class Page:
    """All of it.

    Attributes:
        title: the network.
        subtitle: what it is.
        verdicts: what was found, a sentence each, the most important first.
        cautions: what must not be overlooked.
        cards: of one artefact, see ``cards_of``.
        cards_of: which.
        sections: with something in them.
        todo: what is not measured, and the command that does.
        missed: files that are not shown, and why.
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
