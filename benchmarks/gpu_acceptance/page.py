"""The report as one page of Markdown: what was expected, what was found, on which machine."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from benchmarks.gate.report import cell
from exporter.engines.audit import NOT_TOLD

Report = Mapping[str, Any]
COLUMNS = ("model", "engine", "expectation", "found", "verdict", "why")


def rows(report: Report) -> list[list[str]]:
    """Return the verdicts as rows with :data:`COLUMNS`."""
    return [
        [
            row["model"],
            row["precision"],
            f"{row['expectation']}: {row['says']}",
            row["found"],
            row["verdict"],
            row["why"],
        ]
        for row in report["expectations"]
    ]


def headline(report: Report) -> str:
    """Count the verdicts."""
    counts = Counter(row["verdict"] for row in report["expectations"])
    return ", ".join(f"{counts[name]} {name}" for name in ("met", "not met", "not judged"))


def markdown(report: Report) -> str:
    """Return the page. All of it is also in the JSON."""
    lines = [
        f"# GPU acceptance: {headline(report)}",
        "",
        f"Engines run by: {cell(report['executed'])}. {report['date']}.",
        "Please send this page and the JSON beside it back to whoever asked you to run this.",
        "",
        "## Expectations",
        "",
        *table(COLUMNS, rows(report)),
        "## Accuracy",
        "",
        *table(_ACCURACY, _accuracy(report)),
        "## Latency",
        "",
        *_latency(report),
        "## Engines",
        "",
        *table(_ENGINE, _engines(report)),
        "## Machine",
        "",
        *table(("what", "here", "where it was prepared"), _machines(report)),
    ]
    return "\n".join(lines)


def table(columns: Sequence[str], content: Sequence[Sequence[str]]) -> list[str]:
    """Write a table. Text from other sources is escaped."""
    shown = [" | ".join(cell(text) or "-" for text in row) for row in content]
    return [
        f"| {' | '.join(columns)} |",
        "|---" * len(columns) + "|",
        *(f"| {row} |" for row in shown),
        "",
    ]


_ACCURACY = ("model", "engine", "right", "images", "change, points", "95% interval", "p", "flips")


def _accuracy(report: Report) -> list[list[str]]:
    """Show each engine below Keras and the simulation."""
    found = []
    for model, before in report["references"].items():
        found += [_score(model, one["engine"], one) for one in before]
        found += [
            _score(model, one["precision"], one["accuracy"])
            for one in report["engines"]
            if one["model"] == model and one["accuracy"]
        ]
    return found


def _score(model: str, engine: str, one: Mapping[str, Any]) -> list[str]:
    basic = [model, engine, f"{one['correct']:,}", f"{one['images']:,}"]
    if not one["paired"]:
        return [*basic, "-", "-", "-", "-"]
    paired, against = one["paired"], one["against_keras"]
    low, high = paired["interval_points"]
    return [
        *basic,
        f"{paired['change_points']:+.2f}",
        f"{low:+.2f} to {high:+.2f}",
        f"{paired['p_value']:.2g}",
        str(against["label_flips"]),
    ]


def _latency(report: Report) -> Iterator[str]:
    columns = ("engine", "batch", "p50 ms", "p99 ms", "images/s", "of FP16's speed", "CUDA graph")
    for model, timed in report["latency"].items():
        yield from (f"### {cell(model)}", "")
        if timed is None:
            yield from ("Not measured: one of its engines did not run.", "")
            continue
        yield from table(columns, [_timed(row) for row in timed["rows"]])
        if timed["unstable"]:
            yield from (*(f"- unstable: {cell(why)}" for why in timed["unstable"]), "")


def _timed(row: Mapping[str, Any]) -> list[str]:
    name = str(row["engine"]).replace("\\", "/").rsplit("/", 1)[-1]
    if not row["blocks"]:
        return [name, str(row["batch"]), "-", "-", "-", str(row["error"]), "-"]
    ratio, graph = row["speedup"], row["settings"].get("cuda_graph")
    return [
        name,
        str(row["batch"]),
        f"{row['quantiles_ms']['50']:.3f}",
        f"{row['quantiles_ms']['99']:.3f}",
        f"{row['throughput']:.0f}",
        f"{ratio['ratio']:.2f}x [{ratio['low']:.2f}, {ratio['high']:.2f}]" if ratio else "-",
        {True: "yes", False: "no", None: "-"}[graph],
    ]


_ENGINE = (
    "model",
    "engine",
    "convolutions",
    "adds out of INT8",
    "reformats",
    "build s",
    "TensorRT",
)


def _engines(report: Report) -> list[list[str]]:
    found = []
    for one in report["engines"]:
        audit, record, build = one["audit"], one["engine"] or {}, one["build"] or {}
        row = ["-"] * 3
        if audit:
            counts = ", ".join(f"{count} {name}" for name, count in audit["precisions"].items())
            left = sum(bool(add["left_int8"]) for add in audit["adds"])
            untold = sum(add["reason"] == NOT_TOLD for add in audit["adds"])
            also = f", {untold} not told" if untold else ""
            row = [counts, f"{left} of {len(audit['adds'])}{also}", str(len(audit["reformats"]))]
        built = [str(build.get("build_seconds", "-")), str(record.get("tensorrt", "-"))]
        found.append([one["model"], one["precision"], *row, *built])
    return found


def _machines(report: Report) -> list[list[str]]:
    prepared = report["prepared"]
    gpus = [
        f"{one['name']}, compute capability {one['compute_capability']}, driver {one['driver']}"
        for one in report["gpu"]["devices"]
    ]
    lines = [["GPU", "; ".join(gpus) or "none", "-"], ["date", report["date"], prepared["date"]]]
    for what in ("machine", "versions"):
        here, there = report[what], prepared[what]
        names = dict.fromkeys((*here, *there))
        lines += [[n, str(here.get(n, "-")), str(there.get(n, "-"))] for n in names]
    return lines
