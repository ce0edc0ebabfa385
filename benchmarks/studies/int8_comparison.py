"""What INT8 loses by our calibration, by ``onnxruntime.quantization`` and by NNCF, side by side.

Each network is folded once. Every tool then quantizes that graph from the same calibration images
and is scored on the same test images against Keras. Scheme ``cpu`` runs as onnxruntime fuses it.
Scheme ``tensorrt`` is a simulation: Q and DQ are executed as written, and not run on a GPU. A tool
with several settings gets the best of them by held-out training images. Ours gets no such choice.
Besides the shipped networks there are two that no setting was tuned on
(``benchmarks.studies.untuned``).

Every cell runs in a process of its own and is kept. After an interruption, go on with
``python -m benchmarks.studies.int8_comparison --resume``.
"""

from __future__ import annotations

import importlib.util
import shlex
import subprocess
import sys
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np

from benchmarks import command
from benchmarks.accuracy.paired import paired
from benchmarks.latency import worker
from benchmarks.latency.int8_tools import OURS, RIVALS, TOOLS
from benchmarks.studies import int8_cells, study
from benchmarks.studies.int8_cells import PREPARED
from benchmarks.studies.study import Cell, Run
from benchmarks.studies.untuned import RECIPES
from exporter.artifact import folder as artifact
from exporter.cli import console
from exporter.errors import ExporterError
from exporter.machine.install import pip_line
from exporter.models import zoo

SCHEMES = ("cpu", "tensorrt")
WORK = Path("build/int8_comparison")
UNTUNED = Path("build/untuned")
_PACKAGES = ("numpy", "onnxruntime", "onnx", "nncf", "keras", "tensorflow-cpu")


def default_models() -> tuple[str, ...]:
    """Return the shipped networks and the untuned ones."""
    return (*(row.name for row in zoo.ZOO.values() if row.checkpoint), *RECIPES)


def verdict(cells: Mapping[str, Cell], against: Mapping[str, Cell]) -> dict[str, Any]:
    """Tell whether our default loses least, for one network and scheme.

    Args:
        cells: by tool, of the tools that ran.
        against: our default against each rival, as :func:`benchmarks.accuracy.paired.paired`
            returns it.

    Returns:
        ``fewest_flips`` (a tool), ``ours_is_best``, and the sentence to print.
    """
    flips = {tool: int(cells[tool]["against_keras"]["label_flips"]) for tool in cells}
    rivals = [tool for tool in RIVALS if tool in cells]
    if OURS[0] not in flips or not rivals:
        return {"fewest_flips": None, "ours_is_best": None, "text": "nothing to compare"}
    ours, rival = flips[OURS[0]], min(rivals, key=flips.__getitem__)
    wins, tested = ours <= flips[rival], against[rival]
    low, high = tested["interval_points"]
    text = (
        f"{'ours is best' if wins else 'ours is NOT best'}: {ours} label flips, "
        f"{rival} {flips[rival]}; top-1 {tested['change_points']:+.2f} points "
        f"({low:+.2f} to {high:+.2f}, p {tested['p_value']:.2g})"
    )
    if missing := [tool for tool in RIVALS if tool not in cells]:
        text += f"; not compared with {', '.join(missing)}"
    return {"fewest_flips": OURS[0] if wins else rival, "ours_is_best": wins, "text": text}


def compare_with_rivals(folder: Path, scheme: str, tools: Collection[str]) -> dict[str, Cell]:
    """Test our default's top-1 against each rival's in pairs."""
    if OURS[0] not in tools:
        return {}
    labels = np.load(folder / PREPARED)["labels"]
    right = {
        tool: np.asarray(np.load(folder / f"{scheme}-{tool}.npy").argmax(-1) == labels, np.bool_)
        for tool in (OURS[0], *RIVALS)
        if tool in tools
    }
    ours = right.pop(OURS[0])
    return {rival: paired(theirs, ours).as_json() for rival, theirs in right.items()}


COLUMNS = (
    *("tool", "top-1", "change", "95% interval", "p", "flips"),
    *("SQNR dB", "Conv", "Add", "Q/DQ in"),
)


def show(result: Mapping[str, Any]) -> None:
    """Print the table of one network and scheme, and its verdict."""
    how = "" if result["scheme"] == "cpu" else " (simulated, not run on a GPU)"
    rows = [[tool, *_columns(cell)] for tool, cell in result["tools"].items()]
    console.table(f"{result['network']}, scheme {result['scheme']}{how}", COLUMNS, rows)
    console.say(result["verdict"]["text"])


def _columns(cell: Cell) -> list[str]:
    if "failed" in cell:
        return [f"failed: {cell['failed'].splitlines()[-1][:60]}", *[""] * (len(COLUMNS) - 2)]
    tested, fused = cell["paired"], cell["fusion"]
    low, high = tested["interval_points"]
    fusion = ["-"] * 3
    if fused is not None:
        fusion = [f"{fused[f'qlinear_{op}']}/{fused[op]}" for op in ("convolutions", "adds")]
        fusion.append(str(fused["q_and_dq_inside"]))
    return [
        f"{cell['top1']:.4f}",
        f"{tested['change_points']:+.2f}",
        f"{low:+.2f} to {high:+.2f}",
        f"{tested['p_value']:.2g}",
        str(cell["against_keras"]["label_flips"]),
        f"{cell['sqnr_db']:.1f}",
        *fusion,
    ]


# Processes and their records.


@dataclass(frozen=True)
class Runner:
    """Runs steps in processes of their own, unless there is a record that still holds.

    Attributes:
        work: folder of all records.
        sizes: of the test set and of the calibration set.
        resume: keep the records of earlier runs.
        say: called with a line for every step.
    """

    work: Path
    sizes: tuple[int, int]
    resume: bool
    say: Callable[[str], None]

    def step(self, network: str, model: str, scheme: str, tool: str) -> Cell:
        """Run one step; ``scheme`` is empty for the step that prepares the network.

        Returns:
            Its record. If it failed, ``failed`` holds the end of its error output.
        """
        folder, name = self.work / network, "-".join(filter(None, (scheme, tool)))
        job = study.job(int8_cells.prepare, folder, model, *self.sizes)
        if scheme:
            job = study.job(int8_cells.run_cell, folder, model, scheme, tool)

        def run() -> Cell:
            self.say(f"{network} {name} ...")
            cell = worker.ask(*job)
            return {"failed": cell["error"]} if "error" in cell else cell

        made_for = {"sizes": list(self.sizes), "model": _identity(model), **_versions()}
        record = study.kept(folder / f"{name}.json", run, made_for, resume=self.resume)
        self.say(f"{network} {name}: {_summary(record)}")
        return record


def _identity(model: str) -> str:
    path = zoo.ZOO[model].checkpoint if model in zoo.ZOO else Path(model)
    return artifact.sha256(path) if path is not None and path.is_file() else ""


def _versions() -> dict[str, str]:
    from importlib import metadata

    here = {name for name in _PACKAGES if any(metadata.distributions(name=name))}
    return {name: metadata.version(name) for name in _PACKAGES if name in here}


def _summary(record: Cell) -> str:
    if "failed" in record:
        return f"failed: {record['failed'].splitlines()[-1]}"
    if "top1" not in record:
        return "done"
    return f"top-1 {record['top1']:.4f}, {record['against_keras']['label_flips']} flips"


def model_of(network: str, untuned: Path, say: Callable[[str], None]) -> str:
    """Return what the exporter loads for a network. Trains an untuned one if it is missing.

    Raises:
        ExporterError: its training failed.
    """
    if network not in RECIPES:
        return network
    path = untuned / f"{network}.keras"
    if not path.is_file():
        say(f"{network}: trained first, in {untuned}")
        train = [sys.executable, "-m", "benchmarks.studies.untuned", network, "-o", str(path)]
        if subprocess.run(train, stdout=sys.stderr, check=False).returncode != 0:
            raise ExporterError(f"{shlex.join(train)} failed")
    return str(path)


def run(runner: Runner, network: str, model: str) -> list[dict[str, Any]]:
    """Run all cells of one network.

    Returns:
        A result for each scheme; none if the network could not be exported in FP32.
    """
    prepared = runner.step(network, model, "", "prepare")
    if "failed" in prepared:
        return []
    results = []
    for scheme in SCHEMES:
        cells = {tool: runner.step(network, model, scheme, tool) for tool in TOOLS}
        ran = {tool: cell for tool, cell in cells.items() if "failed" not in cell}
        against = compare_with_rivals(runner.work / network, scheme, ran)
        found = {"network": network, "scheme": scheme, "keras": prepared["keras"], "tools": cells}
        results.append({**found, "ours_against": against, "verdict": verdict(ran, against)})
    return results


@study.command("int8_comparison", "int8_comparison.json")
@click.option("--models", help="Shipped zoo names, mobilenetv2, densenet121 or .keras files; all.")
@click.option("--images", type=study.COUNT, default=10_000)
@click.option("--calibration-images", type=study.COUNT, default=512)
@study.folder("--work", default=WORK, what="For graphs, logits and finished cells.")
@study.folder("--untuned", default=UNTUNED, what="For the networks that are trained for this.")
@click.option("--resume", is_flag=True, help="Keep the cells that this code finished earlier.")
def main(
    log: Run,
    models: str | None,
    images: int,
    calibration_images: int,
    work: Path,
    untuned: Path,
    resume: bool,
) -> None:
    """Compare what INT8 loses by our calibration, quantize_static and NNCF."""
    if importlib.util.find_spec("nncf") is None:
        log.say(f"NNCF is not installed, its cells will fail: {pip_line('compare')}")
    chosen_by = f"label flips on {int8_cells.HELD_OUT} held-out training images, then SQNR"
    asked = {"images": images, "calibration_images": calibration_images, "chosen_by": chosen_by}
    log.start(versions=_versions(), **asked, results=[])
    runner = Runner(work, (images, calibration_images), resume, log.say)
    names = models.split(",") if models else default_models()
    failed = []
    for name in names:
        network = Path(name).stem
        results = run(runner, network, model_of(name, untuned, log.say))
        log.save(results=log.report["results"] + results)
        failed += [] if results else [network]
    for result in log.report["results"]:
        show(result)
    if failed:
        raise ExporterError(f"not exported, see {work}: {', '.join(failed)}")


if __name__ == "__main__":
    command.run(main)
