"""The figures of a report, each as SVG; drawn twice, for wide and for narrow pages.

Engines are told apart by shape and by words, too: never by color alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from markupsafe import Markup

from benchmarks.report.svg import (
    FONT,
    SHAPES,
    Canvas,
    Scale,
    around,
    label,
    shorten,
    text_width,
)

WIDE, HALF, NARROW = 880.0, 430.0, 350.0
_SMALL = 12.0
_ROW = 34.0


@dataclass(frozen=True)
class Series:
    """How one engine looks in every figure.

    Attributes:
        name: as shown.
        css: its class, which has its color.
        shape: of :data:`benchmarks.report.svg.SHAPES`.
    """

    name: str
    css: str
    shape: str


@dataclass(frozen=True)
class Spread:
    """The distribution of one engine's call times.

    Attributes:
        at: quantiles by percent: 1, 25, 50, 75, 99.
        rounds: the median of each round.
    """

    series: Series
    at: Mapping[str, float]
    rounds: Sequence[float]

    def percent(self, ms: float) -> float:
        """Return how far a time is from the median, in % of it."""
        return 100 * (ms / self.at["50"] - 1)

    @property
    def shown(self) -> list[float]:
        """All times that its drawing shows."""
        return [self.at["1"], self.at["99"], *self.rounds]


@dataclass(frozen=True)
class Point:
    """One engine as a point, with an interval in y if there is one."""

    series: Series
    x: float
    y: float
    interval: tuple[float, float] | None = None


@dataclass(frozen=True)
class Bar:
    """A named value, or two: ``value`` with its interval, and another of the same unit.

    Attributes:
        value: None where there is nothing to draw but words.
        interval: of it.
        other: a second value, drawn beside it.
        words: at the row's end.
    """

    name: str
    value: float | None
    interval: tuple[float, float] | None = None
    other: float | None = None
    words: str = ""


def series_for(names: Mapping[str, str], originals: Sequence[str]) -> dict[str, Series]:
    """Give each engine its look: originals gray, the others a color in order.

    Args:
        names: as shown, by engine.
        originals: the engines that are the Keras original.
    """
    found: dict[str, Series] = {}
    for engine, name in names.items():
        grey = engine in originals
        number = sum((one in originals) == grey for one in found)
        css = f"g{min(number, 1)}" if grey else f"s{number % 6}"
        shape = SHAPES[number % 2 * 2 if grey else number % len(SHAPES)]
        found[engine] = Series(name, css, shape)
    return found


def both(name: str, draw: Callable[[float], Canvas], wide: float = WIDE) -> Markup:
    """Draw for wide and for narrow pages; the style sheet shows one of the two.

    Args:
        name: what the figure shows, for screen readers.
        draw: by width.
        wide: less than the page's where figures stand beside each other.
    """
    return draw(wide).render(name, "wide") + draw(NARROW).render(name, "narrow")


class _Rows:
    """A plot with one named row per item and one axis below. Names are on the left or above."""

    def __init__(
        self,
        width: float,
        names: Sequence[str] | None,
        row: float,
        margin: float,
        count: int | None = None,
    ) -> None:
        self.narrow = width <= NARROW and names is not None
        longest = max(map(text_width, names or [""])) + 14
        self.left = 6.0 if self.narrow or not names else min(longest, width * 0.34)
        self.right = width - margin
        self.row = row + (16 if self.narrow else 0)
        room = width if self.narrow else self.left - 12
        self.names = [shorten(name, room) for name in names or [""] * (count or 0)]
        self.bottom = 8 + self.row * len(self.names)
        self.canvas = Canvas(width, self.bottom + 44)

    def axis(self, scale: Scale, title: str) -> None:
        for value in scale.ticks(5 if self.narrow else 8):
            x = scale(value)
            self.canvas.line(x, 4, x, self.bottom, "grid")
            self.canvas.text(x, self.bottom + 18, label(value), "tick", "middle")
        middle = (scale.start + scale.end) / 2
        self.canvas.text(middle, self.bottom + 37, title, "title", "middle")

    def y(self, index: int) -> float:
        """Write a row's name, and return the middle of its marks."""
        top = 8 + self.row * index
        if self.narrow:
            self.canvas.text(self.left, top + 13, self.names[index], "name")
            return top + 16 + (self.row - 16) / 2
        self.canvas.text(self.left - 12, top + self.row / 2 + 4.5, self.names[index], "name", "end")
        return top + self.row / 2


def medians(spreads: Sequence[Spread], width: float) -> Canvas:
    """Draw each engine's median as a length from 0."""
    rows = _Rows(width, [one.series.name for one in spreads], _ROW, 76)
    scale = Scale(0, max(one.at["50"] for one in spreads) * 1.02, rows.left, rows.right)
    rows.axis(scale, "median milliseconds per call")
    for index, one in enumerate(spreads):
        y, median, css = rows.y(index), one.at["50"], one.series.css
        words = f"{one.series.name}: {median:.3f} ms"
        rows.canvas.box(rows.left, y - 7, scale(median) - rows.left, 14, f"fill {css}", words)
        rows.canvas.text(width - 2, y + 4.5, f"{three(median)} ms", "value", "end")
    return rows.canvas


def distributions(spreads: Sequence[Spread], width: float) -> Canvas:
    """Draw calls by their engine's own median: 1 to 99% as a line, the middle half as a box.

    Unnamed where it stands beside :func:`medians`, whose rows it shares.
    """
    names = [one.series.name for one in spreads]
    rows = _Rows(width, names if width <= NARROW else None, _ROW, 62, len(spreads))
    parts = [[one.percent(ms) for ms in one.shown] for one in spreads]
    low, high = around([0.0, *(value for each in parts for value in each)])
    scale = Scale(low, high, rows.left, rows.right)
    rows.axis(scale, "% above or below the engine's own median")
    rows.canvas.line(scale(0), 4, scale(0), rows.bottom, "zero")
    for index, one in enumerate(spreads):
        y, css = rows.y(index), one.series.css
        x1, x25, x75, x99 = (scale(one.percent(one.at[p])) for p in ("1", "25", "75", "99"))
        rows.canvas.line(x1, y, x99, y, f"whisker {css}")
        for end in (x1, x99):
            rows.canvas.line(end, y - 5, end, y + 5, f"whisker {css}")
        words = f"{one.series.name}: half of the calls {one.at['25']:.3f} to {one.at['75']:.3f} ms"
        rows.canvas.box(x25, y - 7, x75 - x25, 14, f"fill {css}", words)
        rows.canvas.line(scale(0), y - 7, scale(0), y + 7, "median")
        for number, middle in enumerate(one.rounds):
            title = f"median of round {number + 1}: {middle:.3f} ms"
            x = scale(one.percent(middle))
            rows.canvas.mark("circle", x, y + 12, f"fill {css}", title, 2)
        tail = f"{one.percent(one.at['99']):+.0f}%"
        rows.canvas.text(width - 2, y + 4.5, tail, "value", "end")
    return rows.canvas


def curve(lines: Sequence[Sequence[Point]], title: str, width: float) -> Canvas:
    """Draw a value over the batch size, both logarithmic. Each line ends in its engine's name."""
    height = 300.0 if width > NARROW else 270.0
    draw = Canvas(width, height)
    points = [point for line in lines for point in line]
    names = [line[-1].series.name for line in lines]
    room = min(max(map(text_width, names)) + 16, width * 0.38)
    left, right, top, bottom = 46.0, width - room, 30.0, height - 44
    low, high = around([p.y for p in points], log=True)
    y = Scale(low, high, bottom, top, log=True)
    batches = sorted({p.x for p in points})
    x = Scale(batches[0], max(batches[-1], batches[0] * 2), left + 10, right - 10, log=True)
    draw.text(2, 14, title, "title")
    for value in y.ticks(7):
        draw.line(left, y(value), right, y(value), "grid")
        draw.text(left - 8, y(value) + 4, label(value), "tick", "end")
    for value in batches:
        draw.text(x(value), bottom + 19, label(value), "tick", "middle")
    draw.text((left + right) / 2, height - 6, "images per call, logarithmic", "title", "middle")
    places = spread_out([y(line[-1].y) for line in lines], FONT + 2, top - 8, bottom + 4)
    for line, place in zip(lines, places, strict=True):
        series, at = line[0].series, [(x(p.x), y(p.y)) for p in line]
        draw.path(at, f"line {series.css}")
        for point, (px, py) in zip(line, at, strict=True):
            words = f"{series.name}, batch {point.x:g}: {three(point.y)}"
            draw.mark(series.shape, px, py, f"fill {series.css}", words, 4)
        name = shorten(series.name, room - 8, _SMALL)
        draw.text(at[-1][0] + 12, place + 4, name, f"name small ink {series.css}")
    return draw


def scatter(
    points: Sequence[Point], x_title: str, y_title: str, original: float | None, width: float
) -> Canvas:
    """Draw accuracy (%) against latency (ms, logarithmic), with intervals.

    Args:
        points: x in ms, y in %.
        x_title: with its unit.
        y_title: likewise.
        original: the Keras original's accuracy in %, as a line across.
        width: of the page.
    """
    height = 340.0 if width == WIDE else 320.0
    draw = Canvas(width, height)
    left, right, top, bottom = 54.0, width - 14, 30.0, height - 44
    ends = [value for p in points for value in (p.interval or (p.y, p.y))]
    low, high = around([*ends, *([] if original is None else [original])], 0.12)
    if high - low < 0.4:  # not to make mountains of what is within chance
        low, high = (low + high) / 2 - 0.2, (low + high) / 2 + 0.2
    y = Scale(low, high, bottom, top)
    x_low, x_high = around([p.x for p in points], 0.18, log=True)
    x = Scale(x_low, x_high, left + 8, right, log=True)
    draw.text(2, 14, y_title, "title")
    for value in y.ticks(6):
        draw.line(left, y(value), right, y(value), "grid")
        draw.text(left - 8, y(value) + 4, label(value), "tick", "end")
    for value in x.ticks(6 if width == WIDE else 4):
        draw.line(x(value), top, x(value), bottom, "grid")
        draw.text(x(value), bottom + 19, label(value), "tick", "middle")
    draw.text((left + right) / 2, height - 6, x_title, "title", "middle")
    if original is not None:
        draw.line(left, y(original), right, y(original), "reference")
    _labelled(draw, points, x, y, right)
    return draw


def _labelled(draw: Canvas, points: Sequence[Point], x: Scale, y: Scale, right: float) -> None:
    """Draw points, each with its name where it covers no other name or point."""
    taken = [_Box(x(p.x) - 9, x(p.x) + 9, y(p.y) - 9, y(p.y) + 9) for p in points]
    for point in sorted(points, key=lambda p: p.x):
        px, py, series = x(point.x), y(point.y), point.series
        if point.interval:
            draw.line(px, y(point.interval[0]), px, y(point.interval[1]), f"whisker {series.css}")
            for end in point.interval:
                draw.line(px - 4, y(end), px + 4, y(end), f"whisker {series.css}")
        words = f"{series.name}: {point.y:.2f}% at {three(point.x)} ms"
        draw.mark(series.shape, px, py, f"fill {series.css}", words, 6)
        long = text_width(series.name, _SMALL) * 1.1
        places = [
            _Box(start, start + long, line - 11, line + 4)
            for line in (py - 9, py + 19, *(py - 25 - 15 * n for n in range(6)))
            for start in (px + 12, px - 12 - long)
            if start >= 2 and start + long <= right
        ] or [_Box(2, 2 + long, py - 20, py - 5)]
        free = [box for box in places if not any(box.meets(other) for other in taken)]
        box = (free or places)[0]
        taken.append(box)
        draw.text(box.left, box.bottom - 4, series.name, f"name small ink {series.css}")


@dataclass(frozen=True)
class _Box:
    """A place in the drawing."""

    left: float
    right: float
    top: float
    bottom: float

    def meets(self, other: _Box) -> bool:
        across = self.left < other.right and other.left < self.right
        return across and self.top < other.bottom and other.top < self.bottom


def changes(bars: Sequence[Bar], title: str, width: float) -> Canvas:
    """Draw changes about 0 with their intervals."""
    margin = 14 + max(text_width(bar.words, _SMALL) for bar in bars)
    rows = _Rows(width, [bar.name for bar in bars], 34, margin)
    ends = [end for bar in bars for end in bar.interval or ()] or [0.0]
    low, high = around([*ends, 0.0, -0.1, 0.1])
    scale = Scale(low, high, rows.left, rows.right)
    rows.axis(scale, title)
    rows.canvas.line(scale(0), 4, scale(0), rows.bottom, "zero")
    for index, bar in enumerate(bars):
        y = rows.y(index)
        if bar.value is not None and bar.interval is not None:
            start, end = map(scale, bar.interval)
            rows.canvas.line(start, y, end, y, "whisker s0")
            for at in (start, end):
                rows.canvas.line(at, y - 5, at, y + 5, "whisker s0")
            words = f"{bar.name}: {bar.value:+.2f}"
            rows.canvas.mark("circle", scale(bar.value), y, "fill s0", words, 5)
        rows.canvas.text(width - 2, y + 4.5, bar.words, "value small", "end")
    return rows.canvas


def lengths(bars: Sequence[Bar], title: str, width: float) -> Canvas:
    """Draw values from 0 as bars, with words at their end."""
    margin = 14 + max(text_width(bar.words, _SMALL) for bar in bars)
    rows = _Rows(width, [bar.name for bar in bars], 22, margin)
    most = max([bar.value for bar in bars if bar.value is not None] or [1.0])
    scale = Scale(0, max(most, 1e-9) * 1.02, rows.left, rows.right)
    rows.axis(scale, title)
    for index, bar in enumerate(bars):
        y = rows.y(index)
        if bar.value is not None:
            end = scale(max(bar.value, 0.0))
            words = f"{bar.name}: {bar.value:.1f}"
            rows.canvas.box(rows.left, y - 6, end - rows.left, 12, "fill s0", words)
        rows.canvas.text(width - 2, y + 4, bar.words, "value small", "end")
    return rows.canvas


def pairs(bars: Sequence[Bar], title: str, width: float) -> Canvas:
    """Draw two values per row: ``value`` as a diamond, ``other`` as a circle."""
    rows = _Rows(width, [bar.name for bar in bars], 21, 16)
    values = [v for bar in bars for v in (bar.value, bar.other) if v is not None]
    low, high = around(values or [0.0, 1.0])
    scale = Scale(low, high, rows.left + 6, rows.right)
    rows.axis(scale, title)
    for index, bar in enumerate(bars):
        y = rows.y(index)
        if bar.value is not None and bar.other is not None:
            rows.canvas.line(scale(bar.value), y, scale(bar.other), y, "grid")
        for value, shape, css in ((bar.other, "circle", "s0"), (bar.value, "diamond", "s1")):
            if value is not None:
                words = f"{bar.name}: {value:.1f} dB"
                rows.canvas.mark(shape, scale(value), y, f"fill {css}", words, 4)
    return rows.canvas


def spread_out(places: Sequence[float], apart: float, low: float, high: float) -> list[float]:
    """Move overlapping labels apart, as little as possible, and keep their order."""
    order = sorted(range(len(places)), key=places.__getitem__)
    found = [min(max(place, low), high) for place in places]
    for before, after in pairwise(order):
        found[after] = max(found[after], found[before] + apart)
    over = max(found, default=high) - high
    if over > 0:
        limit = high
        for index in reversed(order):
            found[index] = min(found[index], limit)
            limit = found[index] - apart
    return found


def three(value: float) -> str:
    """Write three significant digits."""
    if value >= 99.95:
        return f"{value:,.0f}"
    return (
        f"{value:.1f}" if value >= 9.995 else f"{value:.2f}" if value >= 0.9995 else f"{value:.3f}"
    )
