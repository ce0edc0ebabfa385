"""The tables of measurements in the documentation, generated from result files.

``python -m benchmarks.studies.doc_tables`` writes each table between its two marks, and each claim
about a device. A test fails if a page and the files differ. ``docs/results.md`` has the tables that
matter most, and ``docs/details.md`` has all of them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from benchmarks.studies import (
    device_claims,
    layer_times,
    measured_table,
    precision_accuracy,
    rtx_builds,
)
from benchmarks.studies.study import RESULTS, markdown

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
RESULTS_PAGE = DOCS / "results.md"
DETAILS = DOCS / "details.md"

Report = dict[str, Any]


def export_time(report: Report) -> str:
    """Ours against keras.Model.export, medians and their ratio."""
    rows = []
    for model, found in report["results"].items():
        low, high = found["ratio_interval_95"]
        ratio = f"{found['ratio']:.2f} ({low:.2f} to {high:.2f})"
        rows.append((f"`{model}`", f"{found['ours_s']:.1f}", f"{found['keras_s']:.1f}", ratio))
    return markdown(("network", "ours, s", "Keras, s", "ours / Keras"), rows)


def precision(report: Report) -> str:
    """What FP16 loses, and INT8 by scheme, weights, calibrator and recovery."""
    rows = (
        (*precision_accuracy.described(row), *precision_accuracy.lost(row))
        for row in report["results"]
    )
    return markdown(precision_accuracy.COLUMNS, rows, words=3)


# The defaults, in words, by the variant's name.
_DEFAULTS = {
    "onnx-fp16": "TensorRT FP16, simulated",
    "onnx-mse-fp16": "TensorRT INT8, simulated",
    "ort-8-mse": "`ort` INT8",
    "openvino-8-mse": "`openvino` INT8",
    "ort-7-mse": "`ort` INT8, for CPUs without VNNI",
    "openvino-7-mse": "`openvino` INT8, for CPUs without VNNI",
}


def precision_summary(*reports: Report) -> str:
    """What the defaults lose, network beside network."""
    names = [
        f"`{report['model']}`, Keras {report['keras']['correct']:,} right" for report in reports
    ]
    found = [{row["engine"]: _lost(row) for row in report["results"]} for report in reports]
    rows = [
        (words, *(lost.get(variant, "-") for lost in found)) for variant, words in _DEFAULTS.items()
    ]
    return markdown(("default of", *names), rows)


# INT8 and FP8 side by side, by the variant's name.
_FP8 = {"onnx-mse-fp16": "INT8", "onnx-fp8-mse": "FP8"}


def fp8_summary(*reports: Report) -> str:
    """FP8 beside INT8 of scheme `tensorrt`, all simulated, with a line for each network.

    Args:
        reports: of any set of variants; those of one network must have the same original.
    """
    rows = []
    for model in dict.fromkeys(report["model"] for report in reports):
        own = [report for report in reports if report["model"] == model]
        (right,) = {report["keras"]["correct"] for report in own}
        found = {row["engine"]: row for report in own for row in report["results"]}
        layers = found["onnx-fp8-mse"]
        total = layers["layers_quantized"] + layers["layers_in_float"]
        words = (f"`{model}`", f"{layers['layers_quantized']} of {total}", f"{right:,}")
        rows.append((*words, *(_lost(found[name]) for name in _FP8)))
    header = ("network", "layers in FP8", "Keras right", *_FP8.values())
    return markdown(header, rows, words=2)


def fp8(*reports: Report) -> str:
    """Everything that was measured for FP8, network by network."""
    rows = (
        (f"`{report['model']}`", *precision_accuracy.described(row), *precision_accuracy.lost(row))
        for report in reports
        for row in report["results"]
    )
    return markdown(("network", *precision_accuracy.COLUMNS), rows, words=4)


def speed_summary(report: Report) -> str:
    """How many times as fast as TensorFlow the INT8 engines are, and FP32's; in ms."""
    engines = {
        "keras": "TensorFlow",
        "ort-fp32": "`ort` FP32",
        "ort-int8": "`ort` INT8",
        "openvino-int8": "`openvino` INT8",
    }
    rows = []
    for cell in report["cells"]:
        times = (measured_table.time_of(cell, engine) or "failed" for engine in engines)
        rows.append((measured_table.network_name(cell), str(cell["batch"]), *times))
    return markdown(("network", "batch", *engines.values()), rows)


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
        files: under ``benchmarks/results``.
        table: what makes Markdown of them.
        command: what measures them.
    """

    files: tuple[str, ...]
    table: Callable[..., str]
    command: str


_WITH_VNNI = "benchmarks/results/latency_vnni.json"
_BEST = "build/r18/openvino"
_SHIPPED = ("resnet18", "resnext26_16x4d")
_PRECISION = {model: f"precision_{model}.json" for model in _SHIPPED}
_FP8_FILES = tuple(f"fp8_{model}.json" for model in (*_SHIPPED, "mobilenetv2", "densenet121"))
_FP8_COMMAND = "precision_accuracy MODEL --variants fp8"

# By mark in the page.
TABLES: dict[Path, dict[str, Source]] = {
    RESULTS_PAGE: {
        "precision": Source(
            tuple(_PRECISION.values()), precision_summary, "precision_accuracy MODEL"
        ),
        "speed": Source(("latency_vnni.json",), speed_summary, f"measured_table -o {_WITH_VNNI}"),
        "fp8": Source((*_FP8_FILES, *_PRECISION.values()), fp8_summary, _FP8_COMMAND),
        "rtx_builds": Source(("rtx_builds.json",), rtx_builds.markdown, "rtx_builds"),
    },
    DETAILS: {
        **{
            f"precision_{model}": Source((file,), precision, f"precision_accuracy {model}")
            for model, file in _PRECISION.items()
        },
        "fp8": Source(_FP8_FILES, fp8, _FP8_COMMAND),
        "int8_comparison": Source(("int8_comparison.json",), int8_comparison, "int8_comparison"),
        "latency_vnni": Source(
            ("latency_vnni.json",), measured_table.markdown, f"measured_table -o {_WITH_VNNI}"
        ),
        "latency": Source(("latency.json",), measured_table.markdown, "measured_table"),
        "layer_times": Source(("layer_times.json",), layer_times.markdown, f"layer_times {_BEST}"),
        "export_time": Source(("export_time.json",), export_time, "export_time"),
    },
}


def pages() -> list[Path]:
    """Find every page that may have a table or a claim about a device."""
    return [
        ROOT / "README.md",
        *sorted(ROOT.glob("benchmarks/**/*.md")),
        *sorted(DOCS.rglob("*.md")),
    ]


def rewrite(page: Path, text: str) -> str:
    """Return a page's text with new tables and claims. A missing file gives a command instead.

    Raises:
        ValueError: the page does not have a table's marks exactly once.
    """
    for name, source in TABLES.get(page, {}).items():
        begin, end = f"<!-- {name} -->", f"<!-- /{name} -->"
        made = f"{begin}\n{_made(source)}\n{end}"
        pattern = re.compile(f"{re.escape(begin)}\n.*?{re.escape(end)}", re.DOTALL)
        text, found = pattern.subn(lambda _, made=made: made, text)  # type: ignore[misc]
        if found != 1:
            raise ValueError(f"{page.name} has {found} tables between {begin} and {end}")
    return device_claims.fill(text, acceptance_runs())


def acceptance_runs(folder: Path = RESULTS) -> list[Report]:
    """Read the results of runs on GPUs, by file name. There may be none."""
    files = sorted(folder.glob("gpu_*.json"))
    return [json.loads(file.read_text(encoding="utf-8")) for file in files]


def _made(source: Source) -> str:
    paths = [RESULTS / file for file in source.files]
    if not all(path.is_file() for path in paths):
        return f"*Not measured yet: `python -m benchmarks.studies.{source.command}`.*"
    return source.table(*(json.loads(path.read_text(encoding="utf-8")) for path in paths)).strip()


@click.command()
def main() -> None:
    """Write the tables and the claims of the documentation from benchmarks/results."""
    for page in pages():
        page.write_text(rewrite(page, page.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
