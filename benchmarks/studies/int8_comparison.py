"""What INT8 loses by our calibration, by ``onnxruntime.quantization`` and by NNCF, side by side.

Each network is folded once; every tool then quantizes that graph from the same calibration images
and is scored on the same test images against Keras. Scheme ``cpu`` runs as onnxruntime fuses it;
scheme ``tensorrt`` is a simulation, Q and DQ executed as written: not run on a GPU. A tool with
settings to choose from gets the best of them by held-out training images; ours gets no such
choice. Besides shipped networks it runs on two that nothing was tuned on
(``benchmarks.studies.untuned``).

Every cell has a process of its own and is kept; after an interruption ``--resume`` goes on:
``python -m benchmarks.studies.int8_comparison --resume``.
"""

from __future__ import annotations

import importlib.util
import json
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks import result_file
from benchmarks.accuracy.paired import paired
from benchmarks.latency import worker
from benchmarks.latency.int8_tools import OURS, RIVALS, TOOLS
from benchmarks.studies import int8_cells
from benchmarks.studies.int8_cells import PREPARED
from benchmarks.studies.untuned import RECIPES
from exporter.artifact import folder as artifact
from exporter.machine.install import pip_line
from exporter.models import zoo

SCHEMES = ("cpu", "tensorrt")
RESULTS = Path(__file__).parents[1] / "results" / "int8_comparison.json"
_PACKAGES = ("numpy", "onnxruntime", "onnx", "nncf", "keras", "tensorflow-cpu")

Cell = dict[str, Any]


def default_models() -> tuple[str, ...]:
    """Return all shipped networks and the untuned ones."""
    return (*(row.name for row in zoo.ZOO.values() if row.checkpoint), *RECIPES)


def verdict(cells: Mapping[str, Cell], against: Mapping[str, Cell]) -> dict[str, Any]:
    """Say whether our default loses least, in one network and scheme.

    Args:
        cells: by tool; only those that ran.
        against: our default against a rival, by rival, as
            :func:`benchmarks.accuracy.paired.paired` has it.

    Returns:
        ``fewest_flips`` (a tool), ``ours_is_best``, and the sentence to print.
    """
    ours = OURS[0]
    ran = [tool for tool in (ours, *RIVALS) if tool in cells]
    flips = {tool: int(cells[tool]["against_keras"]["label_flips"]) for tool in ran}
    if ours not in flips or len(flips) < 2:
        return {"fewest_flips": None, "ours_is_best": None, "text": "nothing to compare"}
    best_rival = min((tool for tool in flips if tool != ours), key=flips.__getitem__)
    wins = flips[ours] <= flips[best_rival]
    tested = against[best_rival]
    low, high = tested["interval_points"]
    text = (
        f"{'ours is best' if wins else 'ours is NOT best'}: {flips[ours]} label flips, "
        f"{best_rival} {flips[best_rival]}; top-1 {tested['change_points']:+.2f} points "
        f"({low:+.2f} to {high:+.2f}, p {tested['p_value']:.2g})"
    )
    missing = [tool for tool in RIVALS if tool not in cells]
    if missing:
        text += f"; not compared with {', '.join(missing)}"
    return {
        "fewest_flips": ours if wins else best_rival,
        "ours_is_best": wins,
        "text": text,
    }


def compare_with_rivals(folder: Path, scheme: str, tools: Sequence[str]) -> dict[str, Cell]:
    """Test our default's top-1 against each rival's in pairs."""
    labels = np.load(folder / PREPARED)["labels"]

    def right(tool: str) -> np.ndarray[Any, np.dtype[np.bool_]]:
        found = np.load(folder / f"{scheme}-{tool}.npy").argmax(-1) == labels
        return np.asarray(found, np.bool_)

    if OURS[0] not in tools:
        return {}
    ours = right(OURS[0])
    return {tool: paired(right(tool), ours).as_json() for tool in RIVALS if tool in tools}


def tables(results: Sequence[Mapping[str, Any]]) -> list[Table]:
    """Show a table for each network and scheme, its verdict below."""
    shown = []
    columns = ("top-1", "change", "95% interval", "p", "flips", "SQNR dB", "Conv", "Add", "Q/DQ in")
    for result in results:
        how = "" if result["scheme"] == "cpu" else " (simulated, not run on a GPU)"
        title = f"{result['network']}, scheme {result['scheme']}{how}"
        table = Table(title=title, title_justify="left", caption=result["verdict"]["text"])
        table.caption_justify = "left"
        table.add_column("tool")
        for column in columns:
            table.add_column(column, justify="right")
        for tool, cell in result["tools"].items():
            table.add_row(tool, *_columns(cell))
        shown.append(table)
    return shown


def _columns(cell: Cell) -> list[str]:
    if "failed" in cell:
        return [f"failed: {cell['failed'].splitlines()[-1][:60]}"]
    tested, fused = cell["paired"], cell["fusion"]
    low, high = tested["interval_points"]
    row = [
        f"{cell['top1']:.4f}",
        f"{tested['change_points']:+.2f}",
        f"{low:+.2f} to {high:+.2f}",
        f"{tested['p_value']:.2g}",
        str(cell["against_keras"]["label_flips"]),
        f"{cell['sqnr_db']:.1f}",
    ]
    if fused is None:
        return [*row, "-", "-", "-"]
    return [
        *row,
        f"{fused['qlinear_convolutions']}/{fused['convolutions']}",
        f"{fused['qlinear_adds']}/{fused['adds']}",
        str(fused["q_and_dq_inside"]),
    ]


# Processes and what they leave.


class Runner:
    """Runs steps in processes of their own, unless their record is there and still holds.

    Args:
        work: folder of all records.
        sizes: of the test set and of the calibration set.
        resume: keep what an earlier run left.
        say: told of every step.
    """

    def __init__(self, work: Path, sizes: tuple[int, int], resume: bool, say: Console) -> None:
        self._work, self._sizes, self._resume, self._say = work, sizes, resume, say

    def step(self, network: str, model: str, scheme: str, tool: str) -> Cell:
        """Run one step; ``scheme`` is empty where the network is prepared.

        Returns:
            Its record; ``failed`` holds the end of what it said if it failed.
        """
        path = self._work / network / f"{'-'.join(filter(None, (scheme, tool)))}.json"
        made_for = {"sizes": list(self._sizes), "model": self._identity(model), **_versions()}
        if self._resume and path.is_file():
            record: Cell = json.loads(path.read_text())
            if record["made_for"] == made_for and "failed" not in record:
                self._say.print(f"{network} {scheme} {tool}: kept from an earlier run")
                return record
        path.parent.mkdir(parents=True, exist_ok=True)
        self._say.print(f"{network} {scheme} {tool} ...")
        record = {**self._run(network, model, scheme, tool), "made_for": made_for}
        part = path.with_suffix(".part")
        part.write_text(json.dumps(record, indent=1))
        part.replace(path)
        self._say.print(f"{network} {scheme} {tool}: {_summary(record)}")
        return record

    def _run(self, network: str, model: str, scheme: str, tool: str) -> Cell:
        job = [str(self._work / network), model, scheme, tool, self._sizes]
        cell = worker.ask("benchmarks.studies.int8_comparison:answer", json.dumps(job))
        return {"failed": cell["error"]} if "error" in cell else cell

    @staticmethod
    def _identity(model: str) -> str:
        path = zoo.ZOO[model].checkpoint if model in zoo.ZOO else Path(model)
        return artifact.sha256(path) if path is not None and path.is_file() else ""


def _versions() -> dict[str, str]:
    from importlib import metadata

    found = {}
    for name in _PACKAGES:
        if any(True for _ in metadata.distributions(name=name)):
            found[name] = metadata.version(name)
    return found


def _summary(record: Cell) -> str:
    if "failed" in record:
        return f"failed: {record['failed'].splitlines()[-1]}"
    if "top1" not in record:
        return "done"
    return f"top-1 {record['top1']:.4f}, {record['against_keras']['label_flips']} flips"


def model_of(network: str, untuned: Path, say: Console) -> str:
    """Return what the exporter loads for a network; trains an untuned one that isn't there yet.

    Raises:
        click.ClickException: its training failed.
    """
    if network not in RECIPES:
        return network
    path = untuned / f"{network}.keras"
    if not path.is_file():
        say.print(f"{network}: trained first, in {untuned}")
        command = [sys.executable, "-m", "benchmarks.studies.untuned", network, "-o", str(path)]
        if subprocess.run(command, stdout=sys.stderr, check=False).returncode != 0:
            raise click.ClickException(f"{shlex.join(command)} failed")
    return str(path)


def run(runner: Runner, network: str, model: str, work: Path) -> list[dict[str, Any]]:
    """Run all cells of one network.

    Returns:
        A result for each scheme; none where the network could not even be exported in FP32.
    """
    prepared = runner.step(network, model, "", "prepare")
    if "failed" in prepared:
        return []
    results = []
    for scheme in SCHEMES:
        cells = {tool: runner.step(network, model, scheme, tool) for tool in TOOLS}
        ran = {tool: cell for tool, cell in cells.items() if "failed" not in cell}
        against = compare_with_rivals(work / network, scheme, list(ran))
        results.append(
            {
                "network": network,
                "scheme": scheme,
                "keras": prepared["keras"],
                "tools": cells,
                "ours_against": against,
                "verdict": verdict(ran, against),
            }
        )
    return results


def answer(job: str) -> worker.Answer:
    """Run the step of a job, in a process of its own."""
    folder, model, scheme, tool, sizes = json.loads(job)
    if tool != "prepare":
        return int8_cells.run_cell(Path(folder), model, scheme, tool)
    from benchmarks.accuracy.measure import score

    int8_cells.prepare(model, Path(folder), *sizes)
    prepared = np.load(Path(folder, PREPARED))
    return {"keras": score("keras", prepared["keras"], prepared["labels"]).as_json()}


@click.command()
@click.option("--models", help="Shipped zoo names, mobilenetv2, densenet121 or .keras files; all.")
@click.option("--images", type=click.IntRange(min=1), default=10_000, show_default=True)
@click.option("--calibration-images", type=click.IntRange(min=1), default=512, show_default=True)
@click.option(
    "--work",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("build/int8_comparison"),
    show_default=True,
    help="Folder of graphs, logits and finished cells.",
)
@click.option(
    "--untuned",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("build/untuned"),
    show_default=True,
    help="Folder of the networks trained for this.",
)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    default=RESULTS,
    help="JSON file; default: benchmarks/results/int8_comparison.json.",
)
@click.option("--resume", is_flag=True, help="Keep what this code finished earlier.")
def main(
    models: str | None,
    images: int,
    calibration_images: int,
    work: Path,
    untuned: Path,
    output: Path,
    resume: bool,
) -> None:
    """Compare what INT8 loses by our calibration, quantize_static and NNCF."""
    sizes = (images, calibration_images)
    say = Console(stderr=True, highlight=False, soft_wrap=True)
    if importlib.util.find_spec("nncf") is None:
        say.print(f"NNCF is not installed, its cells will fail: {pip_line('compare')}")
    report: dict[str, Any] = {
        **result_file.header("studies.int8_comparison"),
        "versions": _versions(),
        "images": images,
        "calibration_images": calibration_images,
        "chosen_by": f"label flips on {int8_cells.HELD_OUT} held-out training images, then SQNR",
        "results": [],
    }
    output.parent.mkdir(parents=True, exist_ok=True)
    runner = Runner(work, sizes, resume, say)
    names = models.split(",") if models else default_models()
    networks = {Path(name).stem: name for name in names}
    for network, name in networks.items():
        report["results"] += run(runner, network, model_of(name, untuned, say), work)
        result_file.write(report, output)
    console = Console()
    for table in tables(report["results"]):
        console.print(table)
    console.print(f"everything: {output}", highlight=False, soft_wrap=True)
    if failed := [
        name for name in networks if name not in {r["network"] for r in report["results"]}
    ]:
        raise click.ClickException(f"not exported, see {work}: {', '.join(failed)}")


if __name__ == "__main__":
    main()
