"""The report of a bare run as one page of Markdown."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from benchmarks.gate.report import cell
from benchmarks.gpu_acceptance.page import COLUMNS, Report, headline, rows, table

PARTS = ("part", "finds out", "status", "seconds", "reason")
_LATENCY = (
    "network",
    "engine",
    "CUDA graph",
    "batch",
    "p50 ms",
    "p99 ms",
    "kernels ms",
    "images/s",
    "times as fast as Keras",
    "share of peak",
)


def markdown(report: Report) -> str:
    """Return the page. All of it is also in the JSON."""
    figures = {part["name"]: part["figures"] for part in report["parts"]}
    lines = [
        f"# GPU acceptance without TensorRT: {headline(report)}",
        "",
        f"**{cell(report['executed'])}**. {report['date']}.",
        "Please send this page and the JSON beside it back to whoever asked you to run this.",
        "",
        "## Parts",
        "",
        *table(PARTS, parts(report)),
        "## Expectations",
        "",
        *table(COLUMNS, rows(report)),
        *_latency(figures.get("latency")),
        "## Machine",
        "",
        *table(("what", "found"), list(_machine(report))),
    ]
    return "\n".join(lines)


def parts(report: Report) -> list[list[str]]:
    """Return a row with the outcome of each part."""
    return [
        [part["name"], part["says"], part["status"], f"{part['seconds']:.0f}", part["reason"]]
        for part in report["parts"]
    ]


def _latency(figures: dict[str, Any] | None) -> Iterator[str]:
    if not figures:
        return
    peak = figures["peak"]["tflops"]
    yield from ("## Latency", "")
    yield (
        f"{', '.join(figures['random_weights'])}: random weights. Peak, by a matrix product: "
        + ", ".join(f"{name} {value:.1f} TFLOP/s" for name, value in peak.items())
        + ". Calls include copies to and from the device; kernels are timed by CUDA events."
    )
    yield ""
    yield from table(_LATENCY, [_timed(row) for row in figures["rows"]])


def _timed(row: dict[str, Any]) -> list[str]:
    graph = "yes" if row["cuda_graph"] else "no"
    if "error" in row:
        return [row["network"], row["engine"], graph, "-", row["error"], *["-"] * 5]
    ratio, kernels, share = row["speedup"], row["device"].get("compute_ms"), row["share_of_peak"]
    faster = "-"
    if ratio and row["engine"] != "keras":
        faster = f"{ratio['ratio']:.2f}"
        faster += f" [{ratio['low']:.2f}, {ratio['high']:.2f}]" if "low" in ratio else ""
    return [
        row["network"],
        row["engine"],
        graph,
        str(row["batch"]),
        f"{row['p50_ms']:.3f}",
        f"{row['p99_ms']:.3f}",
        "-" if kernels is None else f"{kernels:.3f}",
        f"{row['images_s']:.0f}",
        faster,
        "-" if share is None else f"{share:.0%}",
    ]


def _machine(report: Report) -> Iterator[list[str]]:
    for gpu in report["gpu"]["devices"]:
        shown = f"{gpu['name']}, compute capability {gpu['compute_capability']}"
        yield ["GPU", f"{shown}, driver {gpu['driver']}"]
    for what in ("machine", "versions"):
        for name, value in report[what].items():
            yield [name, str(value)]
