"""The part of SVG that charts need: scales with round ticks, marks, text.

No color stands here: classes do, and the page's style sheet gives them colors for light and dark.
Sizes are CSS pixels at the width that a chart is drawn for.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

FONT = 13.0
_LETTER = 0.62  # of the font's size: the mean width of a letter in the fonts that systems use
SHAPES = ("circle", "square", "diamond", "triangle")


@dataclass(frozen=True)
class Scale:
    """Maps values to positions.

    Attributes:
        low: the value at ``start``; above 0 where logarithmic.
        high: the value at ``end``.
        start: in pixels.
        end: in pixels.
        log: whether equal steps are equal factors.
    """

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        """Return the position of a value."""
        low, high, at = self.low, self.high, value
        if self.log:
            low, high, at = math.log(low), math.log(high), math.log(value)
        return self.start + (self.end - self.start) * (at - low) / (high - low)

    def ticks(self, most: int) -> list[float]:
        """Return round values within the scale, about as many as asked for at most."""
        if self.log:
            for steps in ((1, 2, 5), (1, 3), (1,)):
                found = _powers(self.low, self.high, steps)
                if 2 <= len(found) <= most:
                    return found
        step = next(s for s in _steps(self.high - self.low) if (self.high - self.low) / s <= most)
        first = math.ceil(self.low / step - 1e-9)
        last = math.floor(self.high / step + 1e-9)
        return [round(i * step, 12) for i in range(first, last + 1)]


def _powers(low: float, high: float, steps: Sequence[int]) -> list[float]:
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    values = [step * 10.0**decade for decade in decades for step in steps]
    return [value for value in values if low * 0.999 <= value <= high * 1.001]


def _steps(span: float) -> list[float]:
    """Round steps, the smallest first, from far too small to far too large."""
    decade = math.floor(math.log10(span))
    return [s * 10.0**d for d in range(decade - 2, decade + 2) for s in (1, 2, 5)]


def around(values: Sequence[float], share: float = 0.06, *, log: bool = False) -> Sequence[float]:
    """Return the least and largest of some values with a margin; never the same value twice."""
    low, high = min(values), max(values)
    if log:
        factor = max((high / low) ** share, 1.08)
        return low / factor, high * factor
    margin = (high - low) * share or abs(high) * share or 1.0
    return low - margin, high + margin


def label(value: float) -> str:
    """Write a tick."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:g}".replace("-", "\N{MINUS SIGN}")


def text_width(text: str, size: float = FONT) -> float:
    """Estimate how wide a text is drawn."""
    return len(text) * size * _LETTER


def shorten(text: str, width: float, size: float = FONT) -> str:
    """Cut the beginning of a text that is too wide, as names differ most at their end."""
    fits = max(int(width / (size * _LETTER)), 4)
    return text if len(text) <= fits else f"…{text[len(text) - fits + 1 :]}"


class Canvas:
    """A drawing while it is being made."""

    def __init__(self, width: float, height: float) -> None:
        """Start empty."""
        self.width, self.height = width, height
        self._parts: list[Markup] = []

    def line(self, x1: float, y1: float, x2: float, y2: float, css: str) -> None:
        """Draw a straight line."""
        self._add('<line x1="{}" y1="{}" x2="{}" y2="{}" class="{}"/>', x1, y1, x2, y2, css)

    def path(self, points: Sequence[tuple[float, float]], css: str) -> None:
        """Draw a line through points."""
        joined = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        self._add('<polyline points="{}" class="{}"/>', joined, css)

    def box(self, x: float, y: float, width: float, height: float, css: str, title: str) -> None:
        """Draw a rectangle, rounded a little, with a title for the pointer."""
        self._add(
            '<rect x="{}" y="{}" width="{}" height="{}" rx="2" class="{}"><title>{}</title></rect>',
            x,
            y,
            max(width, 0.5),
            height,
            css,
            title,
        )

    def text(self, x: float, y: float, words: str, css: str = "", anchor: str = "start") -> None:
        """Write, with the baseline at y."""
        form = '<text x="{}" y="{}" class="{}" text-anchor="{}">{}</text>'
        self._add(form, x, y, css, anchor, words)

    def mark(self, shape: str, x: float, y: float, css: str, title: str, size: float = 5.0) -> None:
        """Draw a point, with a title for the pointer."""
        if shape == "circle":
            drawn = Markup('<circle cx="{}" cy="{}" r="{}"').format(_px(x), _px(y), _px(size))
        else:
            corners = {
                "square": ((-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)),
                "diamond": ((0, -1.25), (1.25, 0), (0, 1.25), (-1.25, 0)),
                "triangle": ((0, -1.2), (1.15, 0.85), (-1.15, 0.85)),
            }[shape]
            points = " ".join(f"{x + dx * size:.1f},{y + dy * size:.1f}" for dx, dy in corners)
            drawn = Markup('<polygon points="{}"').format(points)
        self._parts.append(
            drawn
            + Markup(' class="{}"><title>{}</title>').format(css, title)
            + Markup("</circle>" if shape == "circle" else "</polygon>")
        )

    def _add(self, form: str, *values: object) -> None:
        made = (_px(value) if isinstance(value, (int, float)) else value for value in values)
        self._parts.append(Markup(form).format(*made))

    def render(self, name: str, css: str) -> Markup:
        """Return the whole as an element that says to screen readers what it shows."""
        head = Markup(
            '<svg class="{}" viewBox="0 0 {} {}" role="img" aria-label="{}"'
            ' xmlns="http://www.w3.org/2000/svg">'
        ).format(css, _px(self.width), _px(self.height), name)
        return head + Markup("").join(self._parts) + Markup("</svg>")


def _px(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")
