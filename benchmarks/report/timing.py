"""The latency section: distributions, curves over batch sizes, and signs of instability."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from markupsafe import Markup

from benchmarks.report import charts, words
from benchmarks.report.blocks import Block, Figure, Heading, Section, Table, Words
from benchmarks.report.charts import Point, Series, Spread
from benchmarks.report.data import ORIGINALS, Bench, Findings, Timing

_BESIDE = (
    "engine",
    "batch",
    "median, ms",
    "p90, ms",
    "p99, ms",
    "images/s",
    "times as fast",
    "95% interval",
    "peak memory, MiB",
)
_QUANTILES = ("1", "25", "50", "75", "90", "99")


def latency(findings: Findings) -> Section | None:
    """Show every run of ``exporter bench``, the newest first."""
    blocks: list[Block] = []
    for bench in findings.benches:
        if len(findings.benches) > 1:
            blocks.append(Heading(f"{bench.scenario}, {words.when(bench.origin.date)}"))
        blocks += _run(findings, bench)
    return Section("latency", "Latency", tuple(blocks)) if blocks else None


def _run(findings: Findings, bench: Bench) -> list[Block]:
    named = words.names(findings, bench.engines)
    looks = charts.series_for(named, tuple(ORIGINALS))
    blocks: list[Block] = [
        Words(f"{verdict}.", "plain" if number else "key")
        for number, verdict in enumerate(bench.verdicts)
    ]
    blocks.append(Words(_how(bench)))
    if bench.unstable:
        blocks.append(Words(f"Unstable: {'; '.join(bench.unstable)}.", "caution"))
    blocks += [_distribution(bench, batch, looks) for batch in bench.batches]
    if len(bench.batches) > 1:
        blocks.append(_curve(bench, looks))
    blocks.append(_beside(bench, named))
    blocks += [
        Words(f"{named[row.engine]}, batch {row.batch}, failed: {row.error}", "caution")
        for row in bench.rows
        if row.error
    ]
    return [*blocks, words.source(bench.origin)]


def _how(bench: Bench) -> str:
    told = bench.settings
    parts = []
    if told.get("rounds") and told.get("block_s"):
        parts.append(
            f"{told['rounds']} rounds of {words.plain(told['block_s'])} s for each engine and batch"
        )
    if told.get("threads"):
        parts.append(f"{told['threads']} threads")
    baseline = ORIGINALS.get(bench.baseline, bench.baseline)
    what = f"{', '.join(parts)}; " if parts else ""
    return (
        f"Each engine runs in its own process, in a new random order each round: {what}"
        f"compared by {bench.metric} with {baseline}. "
        + ("No sign of disturbance on the machine." if not bench.unstable else "")
    ).strip()


def _distribution(bench: Bench, batch: int, looks: Mapping[str, Series]) -> Figure:
    rows = [row for row in bench.timed if row.batch == batch]
    spreads = [Spread(looks[row.engine], row.quantiles_ms, row.rounds_ms) for row in rows]
    title = f"How long a call takes at batch {batch}"
    columns = ("engine", *(f"p{p}, ms" for p in _QUANTILES), "mean, ms", "times as fast", "95%")
    table = Table(
        title,
        columns,
        tuple(
            (
                looks[row.engine].name,
                *(words.decimals(row.quantiles_ms[p], 3) for p in _QUANTILES),
                words.decimals(row.mean_ms, 3),
                words.times(row.speedup),
                words.times_interval(row.speedup),
            )
            for row in rows
        ),
        folded=True,
    )
    rounds = "; dots: the medians of the rounds" if any(row.rounds_ms for row in rows) else ""
    drawings = (
        charts.both(title, lambda width: charts.medians(spreads, width), charts.HALF),
        charts.both(title, lambda width: charts.distributions(spreads, width), charts.HALF),
    )
    note = f"Lines: 1% to 99% of the calls; boxes: the middle half{rounds}; at the end: p99."
    return Figure(title, drawings, table, note=note if batch == bench.batches[0] else "")


def _curve(bench: Bench, looks: Mapping[str, Series]) -> Figure:
    found = {engine: [row for row in bench.timed if row.engine == engine] for engine in looks}
    by_engine = {engine: sorted(rows, key=_batch) for engine, rows in found.items() if rows}
    panels: tuple[tuple[str, Callable[[Timing], float | None]], ...] = (
        ("median milliseconds per call, logarithmic", lambda row: row.p50),
        ("images per second, logarithmic", lambda row: row.throughput),
    )
    drawings = []
    for title, take in panels:
        lines = [
            [Point(looks[engine], row.batch, y) for row in rows if (y := take(row))]
            for engine, rows in by_engine.items()
        ]
        lines = [line for line in lines if line]
        if lines:
            drawings.append(_drawn(title, lines))
    batches = bench.batches
    columns = ("engine", *(f"ms, {n}" for n in batches), *(f"images/s, {n}" for n in batches))
    rows = []
    for engine in by_engine:
        cells = [bench.find(engine, batch) for batch in batches]
        rows.append(
            (
                looks[engine].name,
                *(words.decimals(row.p50 if row else None, 3) for row in cells),
                *(words.decimals(row.throughput if row else None, 0) for row in cells),
            )
        )
    title = "Latency and throughput against batch size"
    return Figure(title, tuple(drawings), Table(title, columns, tuple(rows), folded=True))


def _drawn(title: str, lines: list[list[Point]]) -> Markup:
    return charts.both(title, lambda width: charts.curve(lines, title, width), charts.HALF)


def _batch(row: Timing) -> int:
    return row.batch


def _beside(bench: Bench, named: Mapping[str, str]) -> Table:
    """List all engines and batch sizes, with memory and energy next to latency."""
    meters = list(dict.fromkeys(meter for row in bench.timed for meter in row.energy_mj))
    columns = (*_BESIDE, *(f"mJ per image ({meter})" for meter in meters))
    rows = tuple(
        (
            named[row.engine],
            str(row.batch),
            *(words.decimals(row.quantiles_ms[p], 3) for p in ("50", "90", "99")),
            words.decimals(row.throughput, 0),
            words.times(row.speedup),
            words.times_interval(row.speedup),
            words.decimals(row.peak_rss_mib, 0),
            *(words.decimals(row.energy_mj.get(meter), 2) for meter in meters),
        )
        for row in bench.timed
    )
    return Table("All engines and batch sizes", columns, rows)
