"""The README's tables of measurements, generated from the files they come from.

``python -m benchmarks.readme_tables`` writes each between its two marks; a test fails where
README and files differ.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from benchmarks import layer_times, measured_table, rtx_builds

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
RESULTS = ROOT / "benchmarks" / "results"

Report = dict[str, Any]


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]], *, words: int = 1) -> str:
    """Write a table whose first so many columns are words, and the others numbers."""
    rule = ["---" if column < words else "--:" for column in range(len(header))]
    return "\n".join(f"| {' | '.join(row)} |" for row in (header, rule, *rows))


def export_time(report: Report) -> str:
    """Ours against keras.Model.export, medians and their ratio."""
    rows = []
    for model, found in report["results"].items():
        low, high = found["ratio_interval_95"]
        ratio = f"{found['ratio']:.2f} ({low:.2f} to {high:.2f})"
        rows.append((f"`{model}`", f"{found['ours_s']:.1f}", f"{found['keras_s']:.1f}", ratio))
    return markdown(("network", "ours, s", "Keras, s", "ours / Keras"), rows)


def int8_accuracy(report: Report) -> str:
    """What INT8 loses, by target, calibrator and recovery."""
    rows = []
    for row in report["results"]:
        paired = row["paired"]
        low, high = paired["interval_points"]
        bits = 7 if row["reduce_range"] else 8
        how = ", simulated" if row["simulated"] else f", {bits}-bit weights"
        rows.append(
            (
                f"{row['scheme']} (`{row['target']}`{how})",
                row["calibrator"],
                ", ".join(row["recovery"]) or "none",
                f"{row['correct']:,}",
                f"{paired['change_points']:+.2f} ({low:+.2f} to {high:+.2f})",
                f"{paired['p_value']:.2g}",
                str(row["against_keras"]["label_flips"]),
            )
        )
    header = ("scheme", "calibrator", "recovery", "right", "change, points", "p", "label flips")
    return markdown(header, rows, words=3)


def int8_comparison(report: Report) -> str:
    """Our default beside other tools: label flips, change of top-1, and which flips fewest."""
    rows = []
    for result in report["results"]:
        simulated = ", simulated" * (result["scheme"] == "tensorrt")
        best = result["verdict"]["fewest_flips"]
        cells = (
            f"failed ({cell['failed'].splitlines()[-1][:40]})" if "failed" in cell else _lost(cell)
            for cell in (result["tools"][tool] for tool in COMPARED)
        )
        words = (f"`{result['network']}`", f"{result['scheme']}{simulated}")
        rows.append((*words, *cells, COMPARED.get(best, "-")))
    header = ("network", "scheme", *COMPARED.values(), "fewest flips")
    return markdown(header, rows, words=2)


COMPARED = {"ours-mse": "ours", "quantize_static": "`quantize_static`", "nncf": "NNCF"}


def _lost(cell: Report) -> str:
    flips, paired = cell["against_keras"]["label_flips"], cell["paired"]
    return f"{flips} flips, {paired['change_points']:+.2f} (p {paired['p_value']:.2g})"


@dataclass(frozen=True)
class Source:
    """Where a table comes from.

    Attributes:
        file: under ``benchmarks/results``.
        table: what makes Markdown of it.
        command: what measures it.
    """

    file: str
    table: Callable[[Report], str]
    command: str


_WITH_VNNI = "benchmarks/results/latency_vnni.json"
_BEST = "build/r18/openvino"

# By mark in the README.
TABLES = {
    "export_time": Source("export_time.json", export_time, "export_time"),
    "int8_comparison": Source("int8_comparison.json", int8_comparison, "int8_comparison"),
    **{
        f"int8_{model}{cpu}": Source(
            f"int8_{model}{cpu}.json", int8_accuracy, f"int8_accuracy {model}"
        )
        for model in ("resnet18", "resnext26_16x4d")
        for cpu in ("", "_vnni")
    },
    "latency": Source("latency.json", measured_table.markdown, "measured_table"),
    "latency_vnni": Source(
        "latency_vnni.json", measured_table.markdown, f"measured_table -o {_WITH_VNNI}"
    ),
    "layer_times": Source("layer_times.json", layer_times.markdown, f"layer_times {_BEST}"),
    "rtx_builds": Source(
        "rtx_builds.json", lambda report: rtx_builds.markdown(report["results"]), "rtx_builds"
    ),
}


def rewrite(text: str) -> str:
    """Return the README with every table made anew, or with what would measure it.

    Raises:
        ValueError: a table's marks are not there exactly once.
    """
    for name, source in TABLES.items():
        begin, end = f"<!-- {name} -->", f"<!-- /{name} -->"
        made = f"{begin}\n{_made(source)}\n{end}"
        pattern = re.compile(f"{re.escape(begin)}\n.*?{re.escape(end)}", re.DOTALL)
        text, found = pattern.subn(lambda _, made=made: made, text)  # type: ignore[misc]
        if found != 1:
            raise ValueError(f"README.md has {found} tables between {begin} and {end}")
    return text


def _made(source: Source) -> str:
    path = RESULTS / source.file
    if not path.is_file():
        return f"*Not measured yet: `python -m benchmarks.{source.command}`.*"
    return source.table(json.loads(path.read_text(encoding="utf-8"))).strip()


@click.command()
def main() -> None:
    """Write the README's tables from benchmarks/results."""
    README.write_text(rewrite(README.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
