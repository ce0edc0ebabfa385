"""The top of the report: subject, gains and losses, accuracy next to latency."""

from __future__ import annotations

from benchmarks.report import charts, words
from benchmarks.report.blocks import Block, Card, Figure, Section, Table, Words
from benchmarks.report.data import KERAS, ORIGINALS, Bench, Findings, Scored, Subject, Timing

_MOST_VERDICTS = 4
_COLUMNS = (
    "engine",
    "computes in",
    "top-1, %",
    "change, points",
    "95% interval",
    "median ms, batch\N{NO-BREAK SPACE}{least}",
    "times as fast",
    "95% interval",
    "images/s, batch\N{NO-BREAK SPACE}{most}",
    "size, MB",
)

_ACCURACY = (
    "engine",
    "top-1, %",
    "change, points",
    "95% interval",
    "p",
    "top-5, %",
    "flips",
    "largest logit error",
)


def subtitle(findings: Findings) -> str:
    """Describe the subject of the report in one line."""
    if not findings.subjects:
        return f"Results in {findings.folder}"
    passport = findings.subjects[0].artifact.passport
    inputs, classes = passport["graph"].get("inputs"), passport.get("classes")
    shape = inputs[0].get("shape") if inputs else None
    size = " x ".join(map(str, shape[1:])) if isinstance(shape, list) else ""
    kinds = ", ".join(dict.fromkeys(one.kind for one in findings.subjects))
    parts = [f"Keras to {kinds}", f"input {size}" if size else ""]
    parts += [f"{len(classes)} classes"] if classes and isinstance(classes, list) else []
    return "; ".join(filter(None, parts))


def timing_of(findings: Findings, subject: Subject) -> tuple[Bench, Timing] | None:
    """Return an artifact's newest timing, at the smallest batch size."""
    for bench in findings.benches:
        rows = [r for r in bench.timed if findings.subject(r.engine, bench.origin.date) is subject]
        if rows:
            return bench, min(rows, key=lambda row: row.batch)
    return None


def verdicts(findings: Findings) -> list[str]:
    """Say what each artifact gained and lost, the fastest first."""
    said = []
    for subject in findings.subjects:
        timed, scored = timing_of(findings, subject), findings.score_of(subject)
        parts = [part for part in (_speed(timed), _loss(scored)) if part]
        ratio = timed[1].speedup.ratio if timed and timed[1].speedup else 0.0
        if parts:
            said.append((ratio, f"{subject.name} ({subject.kind}) {', and '.join(parts)}."))
    ordered = [sentence for _, sentence in sorted(said, key=lambda one: -one[0])]
    paid = [f"{sentence}." for bench in findings.benches[:1] for sentence in bench.verdicts[:1]]
    return [*ordered[:_MOST_VERDICTS], *paid]


def _speed(timed: tuple[Bench, Timing] | None) -> str | None:
    if timed is None or timed[1].speedup is None:
        return None
    bench, row = timed
    ratio, over = row.speedup, ORIGINALS.get(bench.baseline, bench.baseline)
    assert ratio is not None
    base = "the compiled Keras original" if bench.baseline == KERAS else over
    at = f"at batch {row.batch} (95% interval {ratio.low:.2f} to {ratio.high:.2f})"
    if ratio.low <= 1 <= ratio.high:
        return f"shows no measurable difference in speed from {base} {at}"
    return f"is {ratio.ratio:.2f}x as fast as {base} {at}"


def _loss(scored: Scored | None) -> str | None:
    if scored is None or scored.paired is None:
        return None
    tested = scored.paired
    change = f"{words.signed(tested.change_points)} points"
    within = f"95% interval {words.interval(*tested.interval_points)}"
    chance = "within chance" if words.is_chance(tested) else "beyond chance"
    top1, images = f"{100 * scored.top1:.2f}%", f"{scored.images:,} images"
    return f"has a top-1 of {top1}, {change} from Keras on {images} ({within}), {chance}"


def cautions(findings: Findings) -> list[str]:
    """List the warnings that the reader must see."""
    found = [f"{one.name}: {one.caution}." for one in findings.subjects if one.caution]
    for bench in findings.benches:
        if bench.unstable:
            few = "; ".join(bench.unstable[:2])
            more = (
                f"; and {len(bench.unstable) - 2} more reasons" if len(bench.unstable) > 2 else ""
            )
            found.append(f"Unstable latency ({bench.origin.file}): {few}{more}.")
    return found


def cards(findings: Findings) -> tuple[str, list[Card]]:
    """Show one artifact's figures large: the fastest's, or the first's.

    Returns:
        Its name, and the cards.
    """
    if not findings.subjects:
        return "", []
    subject = max(findings.subjects, key=lambda one: _told(findings, one))
    timed, scored = timing_of(findings, subject), findings.score_of(subject)
    found = []
    if timed:
        bench, row = timed
        if row.speedup:
            over = ORIGINALS.get(bench.baseline, "the baseline")
            within = words.times_interval(row.speedup)
            found.append(Card(words.times(row.speedup), f"as fast as {over}", f"95%: {within}"))
        batch = f"p99 {words.decimals(row.quantiles_ms['99'], 2)} ms, batch {row.batch}"
        found.append(Card(f"{charts.three(row.p50)} ms", "median latency", batch))
    if scored:
        note = f"of {scored.images:,} images"
        if scored.paired:
            note = f"{words.signed(scored.paired.change_points)} points against Keras"
        found.append(Card(f"{100 * scored.top1:.2f}%", "top-1", note))
    found.append(Card(words.size(subject.deployed_bytes), "on disk", _smaller(findings, subject)))
    return f"{subject.name}: {subject.kind}", found


def _told(findings: Findings, subject: Subject) -> tuple[float, bool]:
    timed = timing_of(findings, subject)
    ratio = timed[1].speedup.ratio if timed and timed[1].speedup else 0.0
    return ratio, findings.score_of(subject) is not None


def _smaller(findings: Findings, subject: Subject) -> str:
    mine = subject.artifact
    for other in findings.subjects:
        theirs = other.artifact
        same = (mine.target, mine.passport["source"]) == (theirs.target, theirs.passport["source"])
        if other is not subject and same and theirs.passport["precision"] == "fp32":
            return f"{subject.deployed_bytes / (other.deployed_bytes or 1):.0%} of FP32"
    return ""


def summary(findings: Findings) -> list[Block]:
    """Show accuracy next to latency, one engine per row, the originals first."""
    bench = findings.benches[0] if findings.benches else None
    engines = bench.engines if bench else []
    shown = [findings.subject(engine, bench.origin.date) for engine in engines] if bench else []
    rest = [str(one.artifact.path) for one in findings.subjects if one not in shown]
    base = [KERAS] if not engines and findings.scores else []
    named = words.names(findings, [*base, *engines, *rest])
    if not bench:
        named = {engine: "Keras" if engine == KERAS else n for engine, n in named.items()}
    rows = tuple(_row(findings, bench, engine, name) for engine, name in named.items())
    batches = bench.batches if bench and bench.batches else [1]
    columns = [title.format(least=batches[0], most=batches[-1]) for title in _COLUMNS]
    keep = [i for i in range(len(columns)) if any(row[i] != words.NOTHING for row in rows)]
    if len(rows) < 1 or len(keep) < 3:
        return []
    table = Table(
        "Accuracy and latency" if bench else "Accuracy and size",
        tuple(columns[i] for i in keep),
        tuple(tuple(row[i] for i in keep) for row in rows),
        tuple(place for place, i in enumerate(keep) if i < 2),
    )
    return [table]


def _row(findings: Findings, bench: Bench | None, engine: str, name: str) -> tuple[str, ...]:
    date = bench.origin.date if bench else None
    subject = findings.subject(engine, date)
    scored = findings.score(engine, date)
    tested = scored.paired if scored else None
    batches = bench.batches if bench and bench.batches else [1]
    first = bench.find(engine, batches[0]) if bench else None
    last = bench.find(engine, batches[-1]) if bench else None
    size = first.file_bytes if first else None
    if size is None and subject:
        size = subject.deployed_bytes
    return (
        name,
        subject.kind if subject else "FP32" if engine in ORIGINALS else words.NOTHING,
        words.percent(scored.top1 if scored else None),
        words.signed(tested.change_points) if tested else words.NOTHING,
        words.interval(*tested.interval_points) if tested else words.NOTHING,
        words.decimals(first.p50 if first else None, 3),
        words.times(first.speedup if first else None),
        words.times_interval(first.speedup if first else None),
        words.decimals(last.throughput if last else None, 0),
        words.NOTHING if size is None else f"{size / 1e6:.2f}",
    )


def trade(findings: Findings) -> Section | None:
    """Plot accuracy against latency for the engines that have both."""
    for bench in findings.benches:
        date = bench.origin.date
        known = {
            row.engine: (row, score)
            for row in bench.timed
            if row.batch == bench.batches[0] and (score := findings.score(row.engine, date))
        }
        if len(known) > 1:
            return _trade(findings, bench, known)
    return None


def _trade(findings: Findings, bench: Bench, known: dict[str, tuple[Timing, Scored]]) -> Section:
    looks = charts.series_for(words.names(findings, bench.engines), tuple(ORIGINALS))
    points = []
    for engine, (row, score) in known.items():
        around = None
        if score.paired:
            keras = 100 * score.top1 - score.paired.change_points
            around = tuple(keras + end for end in score.paired.interval_points)
        points.append(charts.Point(looks[engine], row.p50, 100 * score.top1, around))  # type: ignore[arg-type]
    original = findings.score(KERAS)
    batch = bench.batches[0]
    x_title = f"median milliseconds per call at batch {batch}, logarithmic"
    line = 100 * original.top1 if original else None
    drawing = charts.both(
        "Accuracy against latency",
        lambda width: charts.scatter(points, x_title, "top-1, %", line, width),
    )
    rows = tuple(
        (
            looks[engine].name,
            f"{row.p50:.3f}",
            words.percent(score.top1),
            words.signed(score.paired.change_points) if score.paired else words.NOTHING,
            words.interval(*score.paired.interval_points) if score.paired else words.NOTHING,
        )
        for engine, (row, score) in known.items()
    )
    columns = ("engine", "median ms", "top-1, %", "change, points", "95% interval")
    score = next(iter(known.values()))[1]
    figure = Figure(
        f"At batch {batch}: up and left is better",
        (drawing,),
        Table("Accuracy against latency", columns, rows, folded=True),
        note="Bars: 95% interval of the change against Keras on the same "
        f"{score.images:,} images of {score.data}, tested in pairs. Dashed: Keras.",
    )
    return Section("trade", "Accuracy against latency", (figure,))


def accuracy(findings: Findings) -> Section | None:
    """List all accuracies, grouped by the test images."""
    blocks: list[Block] = []
    groups: dict[tuple[str, int], list[Scored]] = {}
    for one in findings.scores:
        groups.setdefault((one.data, one.images), []).append(one)
    for (used, images), scores in groups.items():
        scores = sorted(scores, key=lambda one: one.engine != KERAS)
        named = words.names(findings, [one.engine for one in scores])
        named[KERAS] = "Keras"
        rows = tuple(_accuracy_row(one, named[one.engine]) for one in scores)
        blocks.append(Table(f"{images:,} test images of {used}", _ACCURACY, rows))
        blocks += list(dict.fromkeys(words.source(one.origin) for one in scores[1:] or scores))
    if not blocks:
        return None
    read = (
        "Change: top-1 against Keras on the same images. P: McNemar's exact test of no change. "
        "Flips: images whose label differs from Keras."
    )
    return Section("accuracy", "Accuracy", (Words(read), *blocks))


def _accuracy_row(one: Scored, name: str) -> tuple[str, ...]:
    tested, against = one.paired, one.agreement
    return (
        name,
        words.percent(one.top1),
        words.signed(tested.change_points) if tested else words.NOTHING,
        words.interval(*tested.interval_points) if tested else words.NOTHING,
        f"{tested.p_value:.2g}" if tested else words.NOTHING,
        words.percent(one.top5),
        f"{against.label_flips:,}" if against else words.NOTHING,
        f"{against.max_abs_error:.1e}" if against else words.NOTHING,
    )
