"""``exporter bench``: how fast artefacts are beside the network they were made from."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from exporter.options import data_help, folder_type, json_option

if TYPE_CHECKING:
    from exporter.artifact import Artifact

# As benchmarks.latency.AGAINST, which a --help need not load.
_AGAINST = ("keras", "keras-xla", "quantize-static", "nncf", "tflite")


def _sizes(_: click.Context, __: click.Parameter, text: str | None) -> tuple[int, ...] | None:
    if text is None:
        return None
    try:
        return tuple(dict.fromkeys(int(part) for part in text.split(",")))
    except ValueError:
        raise click.BadParameter(f"{text!r} is no list of numbers such as 1,8,32") from None


def _names(_: click.Context, __: click.Parameter, text: str) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",")))
    if names == ("none",):
        return ()
    if unknown := [name for name in names if name not in _AGAINST]:
        raise click.BadParameter(f"{', '.join(unknown)}; known: {', '.join(_AGAINST)}, or none")
    return names


@click.command()
@click.argument("artefacts", type=folder_type, nargs=-1, required=True)
@click.option(
    "--batch",
    "batches",
    callback=_sizes,
    metavar="N,N",
    help="Images a call.  [default: 1,8,32; 1 for single-stream]",
)
@click.option("--threads", type=click.IntRange(min=1), help="Of each engine.  [default: all cores]")
@click.option(
    "--against",
    callback=_names,
    default="keras,keras-xla",
    show_default=True,
    metavar="NAMES",
    help=f"What to time beside: {', '.join(_AGAINST)}, or none. The first is the baseline.",
)
@click.option("--rounds", type=click.IntRange(min=5), default=5, show_default=True)
@click.option(
    "--seconds", type=click.FloatRange(min=0), default=2.0, show_default=True, help="Of each block."
)
@click.option(
    "--warm-up",
    "warm_up_s",
    type=click.FloatRange(min=0),
    default=10.0,
    show_default=True,
    help="Seconds that a block may take to settle, at most.",
)
@click.option(
    "--scenario",
    type=click.Choice(["sweep", "single-stream", "offline"]),
    default="sweep",
    show_default=True,
    help="What is compared: median latency; or as MLPerf does, p90 of one image at a time, or "
    "images a second.",
)
@click.option(
    "--min-duration",
    type=click.FloatRange(min=0),
    default=0.0,
    metavar="S",
    help="Time each engine for so many seconds in all, at least; MLPerf asks for 600.",
)
@click.option(
    "--data",
    help=f"Images to run on: {data_help}  [default: fashion-mnist; with --against none, noise]",
)
@click.option("--original", help="Where the Keras model is, if not where the passport says.")
@click.option("--unsafe", is_flag=True, help="Allow Lambda layers in the original.")
@click.option(
    "--seed",
    type=int,
    default=0,
    show_default=True,
    help="Of the random order in which blocks run.",
)
@click.option("--strict", is_flag=True, help="Exit with 1 if the result can't be trusted.")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path, dir_okay=False), help="Also as JSON, there."
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
    unsafe: bool,
    scenario: str,
    **options: Any,
) -> None:
    """Time ARTEFACTS and their Keras original side by side.

    Same images, same batch, same threads. Every block is a process of its own, pinned, warmed up
    until its time settles; blocks come in an order drawn anew each round, and ratios carry a 95%
    bootstrap interval over rounds. The baseline is the original as one compiled tf.function in
    inference mode; XLA is shown too. quantize-static (onnxruntime), nncf (OpenVINO) and tflite
    are INT8 as those tools make it of the same network from the same training images; they need
    the extra `compare`.

    Other processes' work, CPU quotas, heat, falling clocks and drift are looked for: where one is
    found, the result says "unstable" and why. The result goes into the passports.

    \b
    exporter bench resnet18-fp32 resnet18-int8 --threads 2
    exporter bench mine-ort --data folder:photos
    exporter bench mine-trt --against none     (on a target: no Keras, no data)
    exporter bench resnet18-int8 --scenario single-stream --min-duration 600 --strict -o p90.json
    """
    from benchmarks import latency, payoff
    from exporter import artifact, console
    from exporter.commands import bench_table
    from exporter.runner import usable_cores

    plan = latency.Plan(
        batches=batches or ((1,) if scenario == "single-stream" else (1, 8, 32)),
        threads=threads or usable_cores(),
        scenario=scenario,  # type: ignore[arg-type]
        **options,
    )
    artifacts = [artifact.read(path) for path in artefacts]
    with console.progress_bars(quiet=False) as progress:
        report = latency.bench(
            artifacts, plan, against, original=original, unsafe=unsafe, progress=progress
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
    """Gather what the passports know, the original's among it."""
    found: dict[str, float] = {}
    for one in artifacts:
        if recorded := top1(one):
            found[str(one.path)] = recorded["top1"]
            found["keras"] = recorded["keras"]["top1"]
    return found
