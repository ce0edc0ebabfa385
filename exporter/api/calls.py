"""The calls of the Python API, one for each command."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from exporter.api.arguments import (
    as_file,
    check_function,
    ours,
    read_data,
    reporting,
    request,
    several_of,
)
from exporter.api.shown import Artifact, Result
from exporter.artifact import folder
from exporter.config import NO_CODE, Batch, ExportConfig, InputSize, Trust
from exporter.errors import WrongUse
from exporter.progress import Progress


def export(
    model: Any,
    to: str | None = None,
    *,
    precision: str = "fp32",
    data: Any = None,
    preprocess: str | Callable[[Any], Any] | None = None,
    output: str | Path | None = None,
    batch: str | int | Batch | None = None,
    input_size: str | InputSize | None = None,
    progress: bool | Progress = False,
    **options: Any,
) -> Artifact:
    """Export a network to an artifact.

    Args:
        model: a ``keras.Model`` in memory; or a zoo name, a file or a folder, as on the command
            line; or an :class:`exporter.ExportConfig`, which then holds the whole request.
        to: a target, such as ``ort``, ``openvino``, ``trt`` or ``onnx``.
        precision: ``fp32``, ``fp16``, ``bf16``, ``int8`` or ``fp8``.
        data: inputs to compare and measure on. Arrays, (inputs, labels), a ``tf.data.Dataset``, a
            ``keras.utils.PyDataset``, a generator or other batches; or text, as ``--data``. A
            quarter of given samples (64 at most) is compared with Keras, and the rest measured on.
        preprocess: what turns data into the network's inputs: a name as for ``--preprocess`` for
            images in uint8, or a function of a batch. By default, data are the inputs themselves.
        output: the artifact's folder; by default named after the model and the target.
        batch: the batch sizes to accept: ``8``, ``"1:8:32"``.
        input_size: for a network that takes any size, as ``--input-size``.
        progress: True shows bars; or a function of (stage, done, total, note).
        options: further fields of :class:`exporter.ExportConfig`, such as ``max_drop``.

    Returns:
        The artifact.

    Raises:
        ExporterError: the subclasses say why; see :func:`exporter.pipeline.export`.
    """
    from exporter import pipeline

    if isinstance(model, ExportConfig):
        if callable(to):  # export(config, progress), as in version 0.1
            progress = to
        with reporting(progress) as report:
            return ours(pipeline.export(model, report))
    config, live = request(
        model,
        to,
        data=data,
        preprocess=preprocess,
        output=output,
        batch=batch,
        input_size=input_size,
        precision=precision,
        **options,
    )
    with reporting(progress) as report:
        return ours(pipeline.export(config, report, live=live))


def load(path: str | Path) -> Artifact:
    """Read an artifact. Its files are verified when they are opened.

    Raises:
        WrongUse: the folder is no artifact.
        ExporterError: the passport is damaged.
    """
    return ours(folder.read(Path(path)))


def evaluate(
    artifacts: folder.Artifact | Sequence[folder.Artifact],
    data: Any,
    *,
    preprocess: Callable[[Any], Any] | None = None,
    original: Any = None,
    limit: int | None = None,
    trust: Trust = NO_CODE,
    progress: bool | Progress = False,
) -> Result:
    """Compare artifacts with their original on test data.

    Args:
        artifacts: one or several artifacts of one network.
        data: test data of any kind that :func:`export` takes, with labels.
        preprocess: the function that the artifact was exported with, if there was one.
        original: the model in memory, or its path if it has moved.
        limit: use only the first samples.
        trust: the code that we may run to load the original.
        progress: as in :func:`export`.

    Raises:
        WrongUse: there are no labels, labels are outside the classes, or the original or the
            function is another than the artifact's.
    """
    from benchmarks.accuracy import measure

    several = several_of(artifacts)
    spec = read_data(data, preprocess, limit, test_only=True)
    check_function(several[0], spec)
    if not isinstance(spec, str) and not spec.part("test").labeled:
        raise WrongUse("the data has no labels, and accuracy needs them")
    with reporting(progress) as report:
        rows = measure.evaluate(
            several, spec, limit=limit, original=original, trust=trust, progress=report
        )
    return Result(
        tuple(rows),
        lambda: {"results": [row.as_json() for row in rows]},
        lambda: _console().accuracy_table(rows),
    )


def bench(
    artifacts: folder.Artifact | Sequence[folder.Artifact],
    *,
    against: Sequence[str] = ("keras",),
    original: Any = None,
    trust: Trust = NO_CODE,
    progress: bool | Progress = False,
    **plan: Any,
) -> Result:
    """Time artifacts beside their original, each alone in a process, in random order.

    Args:
        artifacts: one or several artifacts of one network.
        against: other engines to time, as ``--against``; empty for none.
        original: the model in memory, or its path if it has moved.
        trust: the code that we may run to load the original.
        progress: as in :func:`export`.
        plan: further fields of :class:`benchmarks.latency.bench.Plan`, such as ``batches``,
            ``threads`` or ``data``. Without data, all engines get noise.
    """
    from benchmarks.latency import bench as latency
    from benchmarks.latency.images import NOISE
    from exporter.cli.commands import bench_table
    from exporter.network.runner import usable_cores

    several = several_of(artifacts)
    plan["data"] = read_data(plan.get("data", NOISE), None, None, test_only=True)
    settings = latency.Plan(**{"threads": usable_cores(), **plan})
    with reporting(progress) as report, as_file(original) as place:
        found = latency.bench(
            several, settings, against, original=place, trust=trust, progress=report
        )
    return Result(found, found.as_json, lambda: bench_table.show(found, {}))


def check(
    artifacts: folder.Artifact | Sequence[folder.Artifact],
    baseline: str | Path,
    *,
    original: Any = None,
    trust: Trust = NO_CODE,
    progress: bool | Progress = False,
) -> Result:
    """Compare artifacts with a committed baseline, as ``exporter check``; raises nothing for drift.

    Returns:
        The verdicts; ``value`` has a :class:`benchmarks.gate.report.Checked` for each artifact.
    """
    from benchmarks.gate import baseline as baselines
    from benchmarks.gate import run
    from exporter.cli.commands import check as command

    several, path = several_of(artifacts), Path(baseline)
    book = baselines.load(path)
    wanted = run.choose_images(several, book, None, None, update=False)
    with reporting(progress) as report:
        facts = run.measure(several, wanted, original=original, trust=trust, progress=report)
    results = run.compare(several, facts, book, path, update=False, graph_only=False)
    return Result(
        tuple(results),
        lambda: {"results": [one.as_json() for one in results]},
        lambda: command.show(results),
    )


def inspect(artifact: folder.Artifact | str | Path) -> Result:
    """Verify an artifact's files, and describe it and what its engine runs."""
    from exporter.engines.inspection import inspect as look

    path = artifact.path if isinstance(artifact, folder.Artifact) else Path(artifact)
    found = look(path, None)

    def show() -> None:
        from exporter.cli import console, passport

        if found.passport is not None:
            console.facts(str(path), passport.passport_lines(found.passport))
        if found.audit is not None:
            from exporter.cli import engine

            engine.show_audit(found.audit)

    return Result(found, found.as_json, show)


def doctor() -> Result:
    """Describe this machine: its CPU and GPU, and which targets work here."""
    from exporter.diagnosis import diagnose

    found = diagnose()
    return Result(found, found.as_json, lambda: _console().show_diagnosis(found))


def sensitivity(
    model: Any,
    *,
    data: Any,
    preprocess: str | Callable[[Any], Any] | None = None,
    images: int = 512,
    progress: bool | Progress = False,
    **options: Any,
) -> Result:
    """Rank the layers by the accuracy that INT8 costs in each. The arguments are as in `export`."""
    from exporter import pipeline

    given = {"precision": "int8", "recovery": (), "held_out_images": images, **options}
    config, live = request(model, "onnx", data=data, preprocess=preprocess, **given)
    with reporting(progress) as report:
        found = pipeline.measure_sensitivity(config, report, live=live)
    return Result(found, found.as_json, lambda: _console().sensitivity_table(found))


def _console() -> Any:
    from exporter.cli import console

    return console
