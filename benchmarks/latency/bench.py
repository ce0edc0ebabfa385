"""Time engines side by side: same images, batch and threads, each in its own process.

Every round times every engine at every batch size once, in a new random order. So a machine that
warms up or slows down favors no engine. Intervals come from whole rounds.
"""

from __future__ import annotations

import contextlib
import datetime
import importlib.metadata
import os
import random
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np

from benchmarks import result_file
from benchmarks.latency import gpu_watch, machine_watch, payoff, peers, stability, worker
from benchmarks.latency import result as latency_result
from benchmarks.latency.engines import Engine, Kind
from benchmarks.latency.images import NOISE, read_images
from benchmarks.latency.peers import Original
from benchmarks.latency.result import Report, Row, Scenario
from benchmarks.latency.timing_worker import Job
from exporter import targets
from exporter.artifact import folder as artifact
from exporter.artifact.folder import Artifact
from exporter.config import NO_CODE, Given, Trust
from exporter.engines import record as engine_record
from exporter.errors import ExporterError, WrongUse
from exporter.progress import Progress, silent

ORIGINALS = ("keras", "keras-xla")
AGAINST = (*ORIGINALS, *peers.PEERS)
_LISTEN_S = 1.0  # before the start
# On top of warm-up and measurement: TensorFlow loads slowly, and XLA compiles slowly.
_LOAD_LIMIT_S = 600.0

Sample = worker.Answer


@dataclass(frozen=True)
class Plan:
    """How to measure.

    Attributes:
        batches: images per call; every engine is timed with each.
        threads: threads per engine.
        rounds: at least two.
        seconds: least length of a block.
        min_duration: least seconds per engine and batch size over all rounds.
        warm_up_s: most seconds of warm-up per block.
        scenario: decides which metric is compared.
        seed: seed of the random order.
        data: as in :func:`exporter.data.datasets.load`; None: Fashion-MNIST, or noise if only
            artifacts are timed, which works on a machine without data.
    """

    batches: tuple[int, ...] = (1, 8, 32)
    threads: int = 1
    rounds: int = 5
    seconds: float = 2.0
    min_duration: float = 0.0
    warm_up_s: float = 10.0
    scenario: Scenario = "sweep"
    seed: int = 0
    data: str | Given | None = None

    def __post_init__(self) -> None:
        """Raise an error for settings that can't be measured.

        Raises:
            WrongUse: a setting is wrong. The message names it.
        """
        if self.rounds < 2:
            raise WrongUse("an interval needs at least two rounds", hint="the default is 5")
        if not self.batches or min(self.batches) < 1:
            raise WrongUse(f"batch sizes must be 1 or more, not {self.batches}")
        if self.scenario == "single-stream" and self.batches != (1,):
            raise WrongUse(
                "--scenario single-stream sends one image at a time, "
                f"but --batch is {','.join(map(str, self.batches))}",
                hint="leave out --batch",
            )

    @property
    def block_s(self) -> float:
        """Seconds to measure in each block."""
        return max(self.seconds, self.min_duration / self.rounds)


def bench(
    artifacts: Sequence[Artifact],
    plan: Plan,
    against: Sequence[str] = ORIGINALS,
    *,
    original: str | None = None,
    trust: Trust = NO_CODE,
    progress: Progress = silent,
) -> Report:
    """Time artifacts of one network, together with the Keras original and other tools' INT8.

    Args:
        artifacts: artifacts that run here. One that would only be simulated is an error.
        plan: how to measure.
        against: the engines of :data:`AGAINST` to time too. The first one is the baseline; if
            there is none, the first artifact is.
        original: path of the Keras model, if it isn't where the passport says.
        trust: the code that we may run to load it.
        progress: called after every block.

    Returns:
        A row for each engine and batch size. If an engine failed, its row has the error.

    Raises:
        WrongUse: the artifacts are of several networks, one is simulated or given twice, or there
            are more threads than cores.
        Missing: a package of another tool is not installed.
    """
    check(artifacts)
    plan = replace(plan, data=plan.data or ("fashion-mnist" if against else None))
    peers.check([name for name in against if name in peers.PEERS])
    machine = result_file.machine()
    date = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
    cores = choose_cores(plan.threads)
    busy_before = machine_watch.listen(cores, _LISTEN_S)
    gpu_busy_before = gpu_watch.listen(_LISTEN_S) if any(map(_runs_on_gpu, artifacts)) else None
    rows = measure(artifacts, plan, against, Original(original, trust), cores, progress)
    baseline = rows[0].engine
    return Report(
        scenario=plan.scenario,
        baseline=baseline,
        rows=rows,
        unstable=stability.reasons(
            rows, baseline, plan.scenario, busy_before, gpu_busy_before=gpu_busy_before
        ),
        verdicts=payoff.verdicts(artifacts, rows, plan.scenario)
        + payoff.beside_peers(artifacts, rows, plan.scenario),
        settings={
            **asdict(plan),
            **{"against": list(against), "block_s": plan.block_s, "cores": list(cores)},
            "images": _named(plan.data),
        },
        machine=machine,
        versions=_versions(),
        date=date,
    )


def _named(data: str | Given | None) -> str:
    if data is None or isinstance(data, str):
        return data or NOISE
    return str(data.part("test").name)


def measure(
    artifacts: Sequence[Artifact],
    plan: Plan,
    against: Sequence[str],
    where: Original,
    cores: tuple[int, ...],
    progress: Progress,
) -> tuple[Row, ...]:
    """Make the peers' models, then time all engines; the baseline's row comes first."""
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        folder = Path(name)
        images = folder / "images.npy"
        np.save(images, read_images(artifacts[0], plan.data, max(plan.batches), progress))
        rivals = [name for name in against if name in peers.PEERS]
        data = plan.data or "fashion-mnist"  # only used with rivals
        if not isinstance(data, str):
            raise WrongUse("other tools calibrate on --data from a file only")
        made = peers.make_all(rivals, artifacts[0], folder, data, where, progress)
        failed = {rival: answer for rival, answer in made.items() if "error" in answer}
        engines = line_up(artifacts, against, folder, where)
        jobs = [
            Job(engine, images, batch, plan.threads, cores, plan.block_s, plan.warm_up_s)
            for batch in plan.batches
            for engine in engines
        ]
        samples = run(
            jobs, plan, progress, lambda job: failed.get(job.engine.name) or time_apart(job)
        )
        rows = summarize(jobs, samples, plan.scenario, engines[0].name)
        sizes = {rival: peers.file_bytes(rival, folder / rival) for rival in made.keys() - failed}
    sizes |= {str(one.path): deployed_bytes(one) for one in artifacts}
    return tuple(replace(row, file_bytes=sizes.get(row.engine)) for row in rows)


def line_up(
    artifacts: Sequence[Artifact], against: Sequence[str], folder: Path, where: Original
) -> list[Engine]:
    """Return the engines to time, the baseline first; peers' models are in ``folder/NAME``.

    A TensorRT engine is listed twice, with and without a CUDA graph.
    """
    first = artifacts[0].path
    kinds = cast("tuple[Kind, ...]", tuple(against))
    engines = [
        Engine(kind, kind, folder / kind if kind in peers.PEERS else first, where) for kind in kinds
    ]
    for one in artifacts:
        engines.append(Engine(str(one.path), "artefact", one.path))
        if _runs_on_gpu(one):
            name = f"{one.path} (no CUDA graph)"
            engines.append(Engine(name, "artefact", one.path, cuda_graph=False))
    return engines


def _runs_on_gpu(one: Artifact) -> bool:
    """Whether it runs on a GPU, where a CUDA graph can replay its kernels, and not on a DLA."""
    record = one.passport.get(engine_record.FIELD)
    on_gpu = record is not None and record.get("dla_core") is None
    return on_gpu or "provider" in one.passport.get(one.target, {})


def check(artifacts: Sequence[Artifact]) -> None:
    """Raise an error for artifacts that can't be compared.

    Raises:
        WrongUse: an artifact can't be compared. The message names it.
    """
    paths = [one.path for one in artifacts]
    if len(set(paths)) != len(paths):
        raise WrongUse("the same artifact is given twice")
    for one in artifacts:
        source, first = one.passport["source"], artifacts[0].passport["source"]
        if source["sha256"] != first["sha256"]:
            raise WrongUse(
                f"{one.path} was made from {source['model']}, "
                f"but {artifacts[0].path} was made from {first['model']}",
                hint="time artifacts of one network at a time",
            )
        if targets.simulates(one):
            raise WrongUse(
                f"{one.path} is a {one.passport['precision']} graph for other machines; it would "
                "only be simulated here, which says nothing about its speed",
                hint="export it for an engine that runs here: --to ort or openvino",
            )


def choose_cores(threads: int) -> tuple[int, ...]:
    """Choose one usable core per thread; none if this system can't pin processes.

    The last cores are chosen, because the first one handles most interrupts.

    Raises:
        WrongUse: there are fewer cores than threads.
    """
    if not hasattr(os, "sched_setaffinity"):
        return ()
    usable = sorted(os.sched_getaffinity(0))
    if threads > len(usable):
        raise WrongUse(
            f"{threads} threads are requested, but only {len(usable)} cores are usable here"
        )
    return tuple(usable[-threads:])


def run(
    jobs: Sequence[Job],
    plan: Plan,
    progress: Progress,
    time_one: Callable[[Job], Sample] | None = None,
) -> dict[Job, list[Sample]]:
    """Time every job once per round, in a new random order each round.

    Returns:
        One sample per round for each job. If a job fails, its last sample is the error, and it is
        not tried again.
    """
    order = random.Random(plan.seed)
    samples: dict[Job, list[Sample]] = {job: [] for job in jobs}
    total = plan.rounds * len(jobs)
    done = 0
    for number in range(plan.rounds):
        for job in order.sample(list(jobs), len(jobs)):
            done += 1
            if samples[job] and "error" in samples[job][-1]:
                continue
            samples[job].append((time_one or time_apart)(job))
            note = f"round {number + 1}: {job.engine.name}, batch {job.batch}"
            progress("bench", done, total, note)
    return samples


def time_apart(job: Job) -> Sample:
    """Run a job in a fresh process, which does not outlive this call.

    Returns:
        As :func:`benchmarks.latency.timing_worker.measure`, or ``error`` (and ``hint``) if it
        failed.
    """
    limit_s = job.seconds * 10 + job.warm_up_s * 2 + _LOAD_LIMIT_S
    threads = {"OMP_NUM_THREADS": str(job.threads)}
    return worker.ask("benchmarks.latency.timing_worker:answer", job.as_json(), limit_s, threads)


def summarize(
    jobs: Sequence[Job], samples: dict[Job, list[Sample]], scenario: Scenario, baseline: str
) -> tuple[Row, ...]:
    """Turn samples into rows, with ratios to the baseline at the same batch size."""
    rows = {job: _row(job, samples[job]) for job in jobs}
    base = {job.batch: row for job, row in rows.items() if job.engine.name == baseline}
    return tuple(
        replace(row, speedup=latency_result.speedup(row, base[row.batch], scenario))
        if row.blocks and base[row.batch].blocks and row.engine != baseline
        else row
        for row in rows.values()
    )


def _row(job: Job, samples: Sequence[Sample]) -> Row:
    if failed := next((s for s in samples if "error" in s), None):
        hint = f" ({failed['hint']})" if failed.get("hint") else ""
        return Row(job.engine.name, job.batch, error=failed["error"] + hint)
    return Row(
        job.engine.name,
        job.batch,
        tuple(latency_result.block(i, job.batch, s) for i, s in enumerate(samples)),
        latency_result.quantiles([ms for sample in samples for ms in sample["calls_ms"]]),
        settings=samples[0]["settings"],
    )


def record(artifacts: Sequence[Artifact], report: Report) -> list[Artifact]:
    """Write each artifact's rows into its passport, with the originals' rows and the setup."""
    originals = {name: _by_batch(report, name) for name in ORIGINALS}
    common = {
        "scenario": report.scenario,
        "baseline": report.baseline,
        "stable": not report.unstable,
        "unstable": list(report.unstable),
        "settings": dict(report.settings),
        "machine": dict(report.machine),
        "versions": dict(report.versions),
        "date": report.date,
        "originals": {name: found for name, found in originals.items() if found},
    }
    recorded = []
    from_original = report.baseline == ORIGINALS[0]
    for one in artifacts:
        batches = _by_batch(report, str(one.path))
        ratios = [found["speedup"]["ratio"] for found in batches.values() if found["speedup"]]
        # `exporter check` compares the ratio at the smallest batch with the baseline.
        ratio = 1 / ratios[0] if ratios and from_original else None
        value = {**common, "batches": batches, "ratio_to_original": ratio}
        recorded.append(one.record("latency", value) if batches else one)
    return recorded


def _by_batch(report: Report, engine: str) -> dict[str, Any]:
    """Return the figures of an engine for a passport, by batch size; none if all failed."""
    rows = [row for row in report.rows if row.engine == engine and row.blocks]
    return {
        str(row.batch): {
            "quantiles_ms": dict(row.quantiles_ms),
            "mean_ms": row.mean_ms,
            "throughput": row.throughput,
            "speedup": row.speedup and asdict(row.speedup),
            "peak_rss_mib": row.peak_rss_mib,
        }
        for row in sorted(rows, key=lambda row: row.batch)
    }


def write(report: Report, file: Path) -> None:
    """Write a report as JSON atomically.

    Raises:
        ExporterError: the file can't be written.
    """
    try:
        result_file.write(report.as_json(), file)
    except OSError as error:
        raise ExporterError(f"can't write {file}: {error.strerror}") from error


def _versions() -> dict[str, str]:
    from exporter.artifact.passport import versions

    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        return {**versions(), "nncf": importlib.metadata.version("nncf")}
    return versions()


def deployed_bytes(one: Artifact) -> int:
    """Return the size of an artifact's deployed files: all but our own records."""
    papers = (artifact.PASSPORT, artifact.CALIBRATION, "layers.json", "sensitivity.json")
    files = one.passport["files"].items()
    # An engine replaces the graph it was built from.
    names = {name for name, _ in files if name not in papers}
    kept = names - {artifact.MODEL} or names
    return sum(int(file["bytes"]) for name, file in files if name in kept)
