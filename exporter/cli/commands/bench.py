"""``exporter bench``: time artifacts and the network they were made from."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from exporter.cli.options import data_help, folder_type, json_option, trust_options
from exporter.config import Trust

if TYPE_CHECKING:
    from exporter.artifact.folder import Artifact

# Same as benchmarks.latency.bench.AGAINST, copied so that --help does not load it.
_AGAINST = ("keras", "keras-xla", "quantize-static", "nncf", "tflite")


def _sizes(_: click.Context, __: click.Parameter, text: str | None) -> tuple[int, ...] | None:
    if text is None:
        return None
    try:
        return tuple(dict.fromkeys(int(part) for part in text.split(",")))
    except ValueError:
        raise click.BadParameter(f"{text!r} is not a list of numbers such as 1,8,32") from None


def _names(_: click.Context, __: click.Parameter, text: str) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",")))
    if names == ("none",):
        return ()
    if unknown := [name for name in names if name not in _AGAINST]:
        raise click.BadParameter(f"{', '.join(unknown)}; known: {', '.join(_AGAINST)}, or none")
    return names


@click.command()
@click.argument("artefacts", metavar="ARTIFACT...", type=folder_type, nargs=-1, required=True)
@click.option(
    "--batch",
    "batches",
    callback=_sizes,
    metavar="N,N",
    help="Images per call.  [default: 1,8,32; 1 for single-stream]",
)
@click.option(
    "--threads", type=click.IntRange(min=1), help="Threads per engine.  [default: all cores]"
)
@click.option(
    "--against",
    callback=_names,
    default="keras,keras-xla",
    show_default=True,
    metavar="NAMES",
    help=f"Also time: {', '.join(_AGAINST)}, or none. The first is the baseline.",
)
@click.option(
    "--rounds",
    type=click.IntRange(min=5),
    default=5,
    show_default=True,
    help="Number of rounds. Each runs every block once.",
)
@click.option(
    "--seconds",
    type=click.FloatRange(min=0),
    default=2.0,
    show_default=True,
    help="Seconds per block.",
)
@click.option(
    "--warm-up",
    "warm_up_s",
    type=click.FloatRange(min=0),
    default=10.0,
    show_default=True,
    help="Maximum seconds for a block to settle.",
)
@click.option(
    "--scenario",
    type=click.Choice(["sweep", "single-stream", "offline"]),
    default="sweep",
    show_default=True,
    help="What to compare. sweep: median latency; single-stream: p90 latency of one image at a "
    "time, as in MLPerf; offline: images per second, as in MLPerf.",
)
@click.option(
    "--min-duration",
    type=click.FloatRange(min=0),
    default=0.0,
    metavar="S",
    help="Time each engine for at least S seconds in total. MLPerf requires 600.",
)
@click.option(
    "--data",
    help=f"Images to run on: {data_help}  [default: fashion-mnist; noise with --against none]",
)
@click.option("--original", help="The Keras model, if it has moved since the export.")
@trust_options
@click.option(
    "--seed",
    type=int,
    default=0,
    show_default=True,
    help="Seed for the random order of the blocks.",
)
@click.option("--strict", is_flag=True, help="Exit with 1 if the result can't be trusted.")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path, dir_okay=False), help="Also write JSON here."
)
@json_option
@click.pass_context
def bench(
    ctx: click.Context,
    /,
    artefacts: tuple[Path, ...],
    batches: tuple[int, ...] | None,
    threads: int | None,
    against: tuple[str, ...],
    strict: bool,
    output: Path | None,
    as_json: bool,
    original: str | None,
    trust: Trust,
    scenario: str,
    **options: Any,
) -> None:
    """Time each ARTIFACT and its Keras original side by side.

    All engines get the same images, batch and threads. Each block runs in its own pinned process
    and warms up until its time settles. Each round runs the blocks in a new random order. Ratios
    have a 95% bootstrap interval over rounds. The baseline is the original as one compiled
    tf.function in inference mode; XLA is timed too. quantize-static (onnxruntime), nncf (OpenVINO)
    and tflite time the INT8 that those tools make from the same network and training images. They
    need the extra `compare`.

    bench watches for other processes, CPU quotas, heat, falling clocks and drift. If it finds any,
    it marks the result "unstable" and gives the reason. It saves the result in the passports.

    \b
    exporter bench resnet18-fp32 resnet18-int8 --threads 2
    exporter bench mine-ort --data folder:photos
    exporter bench mine-trt --against none     (on a target: no Keras, no data)
    exporter bench resnet18-int8 --scenario single-stream --min-duration 600 --strict -o p90.json
    """
    from benchmarks.latency import bench as latency
    from benchmarks.latency import payoff
    from exporter.artifact import folder as artifact
    from exporter.cli import console
    from exporter.cli.commands import bench_table
    from exporter.network.runner import usable_cores
    from exporter.output import check_parent

    plan = latency.Plan(
        batches=batches or ((1,) if scenario == "single-stream" else (1, 8, 32)),
        threads=threads or usable_cores(),
        scenario=scenario,  # type: ignore[arg-type]
        **options,
    )
    artifacts = [artifact.read(path) for path in artefacts]
    if output is not None:
        check_parent(output)
    with console.progress_bars(quiet=False) as progress:
        report = latency.bench(
            artifacts, plan, against, original=original, trust=trust, progress=progress
        )
    if as_json:
        console.print_json(report.as_json())
    else:
        bench_table.show(report, _accuracies(artifacts, payoff.top1))
    if output is not None:
        latency.write(report, output)
    latency.record(artifacts, report)
    needed = {report.baseline, *map(str, artefacts)}
    failed = any(row.error is not None and row.engine in needed for row in report.rows)
    if failed or (strict and report.unstable):
        ctx.exit(1)


def _accuracies(artifacts: list[Artifact], top1: Any) -> dict[str, float]:
    """Collect top-1 by engine from the passports, including the original's."""
    found: dict[str, float] = {}
    for one in artifacts:
        if recorded := top1(one):
            found[str(one.path)] = recorded["top1"]
            found["keras"] = recorded["keras"]["top1"]
    return found
