"""What another version of onnxruntime changes: the ladder's rungs that it runs, version by version.

``python -m benchmarks.studies.versions_matrix resnet18-ort --data fashion-mnist --onnxruntime
1.23.2,1.32.0`` makes an environment for each version, and runs the same graphs on the same inputs
in each. It compares every version with the first: logits, labels, top-1 in pairs, and the executed
ops. Keras and the conversion run once, here. The environments need neither.

Exit code 3: a version refuses a graph, gives logits that are not finite, or has another top-1 that
is not chance. With ``--strict``, also: one label or one executed op differs.
"""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from pathlib import Path

import click

from benchmarks import command
from benchmarks.accuracy.measure import Images, load_original
from benchmarks.accuracy.original import original_logits
from benchmarks.drift.graphs import remake
from benchmarks.drift.ladder import LADDERS, Made
from benchmarks.studies import environments, study, versions_run
from benchmarks.studies.study import Run
from benchmarks.studies.versions_cells import Cell, compare, drifts, report, show
from benchmarks.studies.versions_run import Runtime
from exporter.artifact import folder as artifact
from exporter.artifact.folder import Artifact
from exporter.cli import console
from exporter.errors import GateRefused, WrongUse
from exporter.progress import Progress

ENVIRONMENTS = Path("build/environments")


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
        threads: of onnxruntime, the same everywhere, because sums depend on how they are split.
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
                name, answers = f"{one.path.name}, {job.rung}", {}
                for number, (version, run) in enumerate(runtimes.items(), 1):
                    answers[version] = run(job)
                    progress(name, number, len(runtimes), version)
                cells += compare(str(one.path), job.rung, answers, keras, images.labels)
    return cells


@study.command("versions_matrix", "versions_matrix.json")
@study.artifacts
@click.option("--onnxruntime", "versions", required=True, help="Two or more, with commas between.")
@study.data
@click.option("--limit", type=study.COUNT, help="Only the first so many images.")
@click.option(
    "--rung",
    "rungs",
    type=click.Choice([step.name for step in LADDERS[True, False][1:]]),
    multiple=True,
    help="Only these; default: all that onnxruntime runs.",
)
@study.threads
@click.option("--strict", is_flag=True, help="Exit 3 for one label or one executed op, too.")
@study.folder("--environments", "folder", default=ENVIRONMENTS, what="Where they are kept.")
def main(
    log: Run,
    artefacts: tuple[Path, ...],
    versions: str,
    data: str,
    limit: int | None,
    rungs: tuple[str, ...],
    threads: int,
    strict: bool,
    folder: Path,
) -> None:
    """Run ARTIFACTS, of one or several networks, in several versions of onnxruntime."""
    names = environments.parse_versions(versions)
    networks: dict[str, list[Artifact]] = {}
    for one in map(artifact.read, artefacts):
        networks.setdefault(one.passport["source"]["sha256"], []).append(one)
    runtimes = {
        name: partial(versions_run.run_with, environments.prepare(name, folder)) for name in names
    }
    log.start(data=data, limit=limit, threads=threads, strict=strict)
    cells: list[Cell] = []
    with console.progress_bars(quiet=False) as progress:
        for artifacts in networks.values():
            cells += measure(artifacts, runtimes, data, limit, threads, progress, rungs)
    if not cells:
        raise WrongUse(
            f"onnxruntime runs none of {', '.join(rungs) or 'their rungs'}",
            hint="name artefacts for ort or onnx, and rungs that they have",
        )
    failures = drifts(cells, strict=strict)
    log.save(drifted=failures, **report(cells))
    show(cells)
    if failures:
        raise GateRefused(f"{len(failures)} drifted from {names[0]}", hint="\n".join(failures))


if __name__ == "__main__":
    command.run(main)
