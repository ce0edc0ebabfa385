"""What another version of onnxruntime changes: the ladder's rungs that it runs, version by version.

``python -m benchmarks.studies.versions_matrix resnet18-ort --data fashion-mnist --onnxruntime
1.23.2,1.32.0`` makes an environment for each version, runs the same graphs on the same inputs in
each, and holds every version against the first: logits, labels, top-1 in pairs, and the ops that
are executed. Keras and the conversion run once, here; the environments need neither.

Ends with 3 where a version refuses a graph, gives logits that are not finite, or has another top-1
beyond chance; ``--strict``: also where one label or one executed op differs.
"""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from pathlib import Path

import click
from rich.console import Console

from benchmarks import command, result_file
from benchmarks.accuracy.measure import Images, load_original
from benchmarks.accuracy.original import original_logits
from benchmarks.drift.graphs import remake
from benchmarks.drift.ladder import LADDERS, Made
from benchmarks.studies import environments, versions_run
from benchmarks.studies.versions_cells import Cell, compare, drifts, report, tables
from benchmarks.studies.versions_run import Answer, Job, Runtime
from exporter.artifact import folder as artifact
from exporter.artifact.folder import Artifact
from exporter.errors import GateRefused, WrongUse
from exporter.network.runner import usable_cores
from exporter.progress import Progress

RESULTS = Path(__file__).parents[1] / "results" / "versions_matrix.json"


def measure(
    artifacts: Sequence[Artifact],
    runtimes: Mapping[str, Runtime],
    data: str,
    limit: int | None,
    threads: int,
    progress: Progress,
    rungs: Collection[str] = (),
) -> list[Cell]:
    """Run every rung of artifacts of one network in every version, one at a time.

    Args:
        artifacts: made from one network.
        runtimes: by version.
        data: as :func:`exporter.data.datasets.load`.
        limit: only the first so many images.
        threads: of onnxruntime, the same everywhere: sums depend on how they are split.
        progress: one bar a rung.
        rungs: only these; none: all that onnxruntime runs.

    Raises:
        WrongUse: as :func:`benchmarks.accuracy.measure.evaluate`.
    """
    source = load_original(artifacts)
    images = Images.load(source, data, limit, progress)
    keras = original_logits(images, progress)
    cells = []
    for one in artifacts:
        made = Made(one, source, remake(one, source))
        with tempfile.TemporaryDirectory(prefix="versions-matrix-") as folder:
            for job in versions_run.jobs(made, images, Path(folder), threads, rungs):
                answers = _ask(runtimes, job, f"{one.path.name}, {job.rung}", progress)
                cells += compare(str(one.path), job.rung, answers, keras, images.labels)
    return cells


def _ask(
    runtimes: Mapping[str, Runtime], job: Job, stage: str, progress: Progress
) -> dict[str, Answer]:
    answers = {}
    for number, (version, run) in enumerate(runtimes.items(), 1):
        answers[version] = run(job)
        progress(stage, number, len(runtimes), version)
    return answers


@click.command()
@click.argument("artefacts", type=click.Path(path_type=Path), nargs=-1, required=True)
@click.option("--onnxruntime", "versions", required=True, help="Two or more, comma between.")
@click.option("--data", default="fashion-mnist", show_default=True)
@click.option("--limit", type=click.IntRange(min=1), help="Only the first so many images.")
@click.option(
    "--rung",
    "rungs",
    type=click.Choice([step.name for step in LADDERS[True, False][1:]]),
    multiple=True,
    help="Only these; default: all that onnxruntime runs.",
)
@click.option("--threads", type=click.IntRange(min=1), help="Default: all cores.")
@click.option("--strict", is_flag=True, help="Exit 3 for one label or one executed op, too.")
@click.option(
    "--environments",
    "folder",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("build/environments"),
    show_default=True,
    help="Where they are kept.",
)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    default=RESULTS,
    help="JSON file; default: benchmarks/results/versions_matrix.json.",
)
def main(
    artefacts: tuple[Path, ...],
    versions: str,
    data: str,
    limit: int | None,
    rungs: tuple[str, ...],
    threads: int | None,
    strict: bool,
    folder: Path,
    output: Path,
) -> None:
    """Run ARTEFACTS, of one or several networks, in several versions of onnxruntime."""
    from exporter.cli import console

    names = environments.parse_versions(versions)
    networks: dict[str, list[Artifact]] = {}
    for one in map(artifact.read, artefacts):
        networks.setdefault(one.passport["source"]["sha256"], []).append(one)
    runtimes = {
        name: partial(versions_run.run_with, environments.prepare(name, folder)) for name in names
    }
    cores = threads or usable_cores()
    cells: list[Cell] = []
    with console.progress_bars(quiet=False) as progress:
        for artifacts in networks.values():
            cells += measure(artifacts, runtimes, data, limit, cores, progress, rungs)
    if not cells:
        raise WrongUse(
            f"onnxruntime runs none of {', '.join(rungs) or 'their rungs'}",
            hint="name artefacts for ort or onnx, and rungs that they have",
        )
    failures = drifts(cells, strict=strict)
    output.parent.mkdir(parents=True, exist_ok=True)
    asked = {"data": data, "limit": limit, "threads": cores, "strict": strict}
    found = {**asked, "drifted": failures, **report(cells)}
    result_file.write({**result_file.header("studies.versions_matrix"), **found}, output)
    for table in tables(cells):
        Console().print(table)
    Console().print("flips, max error (of a logit), dB (SQNR): against the first", highlight=False)
    Console().print(f"all figures: {output}", highlight=False, soft_wrap=True)
    if failures:
        raise GateRefused(f"{len(failures)} drifted from {names[0]}", hint="\n".join(failures))


if __name__ == "__main__":
    command.run(main)
