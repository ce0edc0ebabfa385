"""What ran on which device: every such claim in a page comes from here.

A claim is generated from the results of ``python -m benchmarks.gpu_acceptance`` that are kept as
``benchmarks/results/gpu_*.json``. Without one, a claim reads "not run on a GPU". To change the
claims, add a result. Nothing else has to be edited.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.studies import study

Report = dict[str, Any]

NEVER = "not run on a GPU"
_MARK = re.compile(r"<!-- ran:(?P<name>[\w-]+) -->.*?<!-- /ran -->", re.DOTALL)


@dataclass(frozen=True)
class Subject:
    """One thing that the pages make a claim about.

    Attributes:
        name: in the marks of a page.
        what: the thing, in the words of the table.
        tried: how far it was tried without a GPU.
        part: of the acceptance run; it must be there and ok.
        device: a pattern that the GPU's name must match; any by default.
    """

    name: str
    what: str
    tried: str
    part: str
    device: str = ""


SUBJECTS: tuple[Subject, ...] = (
    Subject(
        "ort-cuda",
        "`ort-cuda`: FP32, TF32 and FP16 on the CUDA provider",
        "run with onnxruntime's CPU provider in its place",
        "accuracy",
    ),
    Subject(
        "latency",
        "latency on a GPU beside the Keras original, with and without a CUDA graph",
        "run with the CPU provider in its place",
        "latency",
    ),
    Subject(
        "runner",
        "our engine runner: memory, streams, events, CUDA graph, any batch size",
        "wiring only, with stand-ins for TensorRT and CUDA",
        "runner",
    ),
    Subject(
        "nvml",
        "clocks, throttling, power and energy of a GPU; a load is noticed",
        "wiring only, with a stand-in for NVML",
        "nvml",
    ),
    Subject(
        "doctor",
        "`doctor` on a GPU machine",
        "run on real TensorRT-RTX plans and on records of NVIDIA's",
        "doctor",
    ),
    Subject(
        "trt-rtx",
        "`trt-rtx` engines",
        "built for real by TensorRT-RTX 1.7.1, which needs no GPU for that",
        "rtx",
    ),
    Subject(
        "trt",
        "`trt` engines: `compile`, the record of layers, timing cache, speed, accuracy",
        "wiring only, with stand-ins; their graphs are built by TensorRT-RTX",
        "tensorrt",
    ),
    Subject(
        "ort-trt",
        "`ort-trt` and `ort-trt-rtx`: onnxruntime's TensorRT providers",
        "wiring only; graphs as for `trt`",
        "ort-trt",
    ),
    Subject(
        "jetson",
        "`trt` engines on a Jetson",
        "on paper",
        "tensorrt",
        "Orin|Xavier|Thor|Jetson",
    ),
)


def claim(subject: Subject, reports: Sequence[Report]) -> str:
    """Tell in a few words on which GPUs a thing ran, and where it failed.

    Returns:
        Such as "run on NVIDIA H100 80GB HBM3", or :data:`NEVER`.
    """
    ran, failed = [], []
    for report in filter(_on_gpu, reports):
        device = _device(report)
        part = next((part for part in report["parts"] if part["name"] == subject.part), None)
        if part is None or not re.search(subject.device, device):
            continue
        if part["status"] == "ok":
            ran.append(device)
        elif part["status"] != "skipped":
            failed.append(f"{device} ({part['status']}: {_first_line(part['reason'])})")
    said = (("run on", ran), ("failed on", failed))
    return "; ".join(f"{words} {_listed(names)}" for words, names in said if names) or NEVER


def overall(reports: Sequence[Report]) -> str:
    """Tell on which GPUs any part of the project ran."""
    devices = [_device(report) for report in reports if _on_gpu(report)]
    if not devices:
        return "Nothing in this project has run on a GPU yet"
    return f"Parts of this project have run on {_listed(devices)}"


def table(reports: Sequence[Report]) -> str:
    """Write the table of what was tried where, as Markdown."""
    rows = [(row.what, row.tried, claim(row, reports)) for row in SUBJECTS]
    return study.markdown(("what", "without a GPU", "on a GPU"), rows, words=3)


def fill(text: str, reports: Sequence[Report]) -> str:
    """Replace every inline claim of a page with what the reports say.

    Args:
        text: has claims between ``<!-- ran:NAME -->`` and ``<!-- /ran -->``. NAME is a subject,
            ``anything`` for :func:`overall`, or ``table`` for :func:`table`.
        reports: of the acceptance runs.

    Raises:
        ValueError: a mark names no subject.
    """
    said = {subject.name: claim(subject, reports) for subject in SUBJECTS}
    said |= {"anything": overall(reports), "table": f"\n{table(reports)}\n"}

    def write(found: re.Match[str]) -> str:
        name = found["name"]
        if name not in said:
            raise ValueError(f"no subject {name!r}: there are {', '.join(said)}")
        return f"<!-- ran:{name} -->{said[name]}<!-- /ran -->"

    return _MARK.sub(write, text)


def _on_gpu(report: Report) -> bool:
    """Whether a report is of a GPU. A rehearsal on a CPU shows nothing about one."""
    return not report["rehearsed"] and bool(report["gpu"]["devices"])


def _device(report: Report) -> str:
    return str(report["gpu"]["devices"][0]["name"])


def _first_line(text: str) -> str:
    """Make an error text fit into a cell of a table, whatever it contains."""
    line = next(iter(text.strip().splitlines()), "")
    return line.replace("|", "/").replace("<", "(").replace(">", ")")[:120]


def _listed(names: Iterable[str]) -> str:
    return ", ".join(dict.fromkeys(names))
