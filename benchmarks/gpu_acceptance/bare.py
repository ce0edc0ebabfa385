"""The run on a bare GPU machine: each part has a time limit, the report is one JSON and one page.

If a part fails, crashes or hangs, its row says why, and the others go on. Both files are written
again after each part, so nothing that was measured gets lost.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from benchmarks import result_file
from benchmarks.gpu_acceptance import bare_expectations, bare_page, handover
from benchmarks.gpu_acceptance.parts import Device, Task
from benchmarks.latency import worker
from calibration.whole_file import write_whole
from exporter.errors import WrongUse
from exporter.machine.gpus import find_gpus
from exporter.progress import Progress, silent

JSON, PAGE = "gpu_bare.json", "gpu_bare.md"
FORMAT = 1
DEADLINE_S = 470.0
_LEAST_S = 5.0  # with less time left, a part is not started
_PACKAGE = "benchmarks.gpu_acceptance.parts"
_PREPARED = ("date", "machine", "versions", "images")

Status = Literal["ok", "failed", "over time", "skipped"]


@dataclass(frozen=True)
class Part:
    """One row.

    Attributes:
        name: in a word.
        says: what it finds out.
        function: the worker's, ``MODULE:FUNCTION``.
        limit_s: the most seconds it may take.
    """

    name: str
    says: str
    function: str
    limit_s: float


# In order of cost: the cheap parts are done before the long ones begin. Together at most 465 s.
PARTS: tuple[Part, ...] = (
    Part("doctor", "what doctor says of this machine", f"{_PACKAGE}.machine:answer", 20),
    Part("runner", "our engine runner on real CUDA", f"{_PACKAGE}.runner:answer", 45),
    Part("nvml", "clocks, power, energy; a load is noticed", f"{_PACKAGE}.nvml:answer", 45),
    Part("accuracy", "labels against Keras and the simulation", f"{_PACKAGE}.accuracy:answer", 110),
    Part("rtx", "TensorRT-RTX on this card", f"{_PACKAGE}.rtx:answer", 65),
    Part("latency", "latency beside the Keras original", f"{_PACKAGE}.latency:answer", 180),
)


@dataclass(frozen=True)
class Done:
    """The outcome of one part."""

    name: str
    says: str
    status: Status
    seconds: float
    reason: str
    figures: dict[str, Any]


def run(
    folder: Path,
    output: Path,
    *,
    device: Device = "cuda",
    images: int | None = None,
    parts: Sequence[Part] | None = None,
    deadline_s: float = DEADLINE_S,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Try every part and write the report after each.

    Args:
        folder: written by ``--prepare DIR --without tensorrt``; every file is verified first.
        output: an empty folder for the report and the parts' own files.
        device: ``cpu`` to rehearse where there is no GPU.
        images: how many test images to classify; None: all.
        parts: which, in order; None for :data:`PARTS`.
        deadline_s: seconds for all of them.
        progress: told of every part.

    Returns:
        The report as JSON values.

    Raises:
        WrongUse: the folder is for a machine with TensorRT.
        ExporterError: something in it is damaged.
    """
    end = time.monotonic() + deadline_s
    prepared = read(folder)
    report = {
        **result_file.header("gpu_acceptance"),
        "format": FORMAT,
        "rehearsed": device == "cpu",
        "executed": _executed(device),
        "gpu": asdict(find_gpus()),
        "prepared": {key: prepared.about[key] for key in _PREPARED},
    }
    done: list[Done] = []
    parts = PARTS if parts is None else parts
    _write(report, done, output)  # a run that is killed in its first part has a report, too
    for number, part in enumerate(parts):
        progress("parts", number, len(parts), part.name)
        done.append(_try(part, folder, output, device, images, end - time.monotonic()))
        _write(report, done, output)
    progress("parts", len(parts), len(parts), "done")
    return report


def _write(report: dict[str, Any], done: Sequence[Done], output: Path) -> None:
    """Put the finished parts into the report. Write it and its page, each atomically."""
    report |= {
        "parts": [asdict(each) for each in done],
        "expectations": bare_expectations.judge({each.name: each.figures for each in done}),
    }
    result_file.write(report, output / JSON)
    write_whole(output / PAGE, bare_page.markdown(report))


def read(folder: Path) -> handover.Prepared:
    """Open a folder that was prepared for a bare machine, and verify every file.

    Raises:
        WrongUse: it is no such folder, or was prepared for a machine with TensorRT.
        ExporterError: something in it is damaged.
    """
    prepared = handover.read(folder)
    if prepared.about.get("kind") != handover.BARE:
        raise WrongUse(
            f"{folder} was prepared for a machine with TensorRT",
            hint="prepare it with --without tensorrt, or run it without that option",
        )
    return prepared


def _try(
    part: Part, folder: Path, output: Path, device: Device, images: int | None, left_s: float
) -> Done:
    """Run one part in a process of its own. Whatever happens there becomes its row."""
    limit_s = min(part.limit_s, left_s)
    if limit_s < _LEAST_S:
        reason = "there was no time left for it"
        return Done(part.name, part.says, "skipped", 0.0, reason, {})
    work = output / part.name
    work.mkdir()
    task = Task(folder.absolute(), work.absolute(), device, limit_s, images)
    started = time.monotonic()
    answer = worker.ask(part.function, task.as_json(), limit_s, with_children=True)
    seconds = time.monotonic() - started
    if "error" not in answer:
        failed = answer.pop("failed", None)  # a failure that the part found out is a result
        status: Status = "failed" if failed else "ok"
        return Done(part.name, part.says, status, seconds, failed or "", answer)
    status = "over time" if seconds >= limit_s else "failed"
    reason = "\n".join(filter(None, (answer["error"], answer.get("hint"))))
    return Done(part.name, part.says, status, seconds, reason, {})


def _executed(device: Device) -> str:
    if device == "cpu":
        return "rehearsed on a CPU, not run on a GPU"
    names = ", ".join(gpu.name for gpu in find_gpus().devices)
    return f"run on {names}" if names else "no GPU was found"
