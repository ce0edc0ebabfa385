"""The command: ``python -m benchmarks.gpu_acceptance``."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import click

from benchmarks import command, result_file
from benchmarks.gpu_acceptance import bare, bare_page, handover, page, pieces, run
from benchmarks.gpu_acceptance.expectations import exit_code
from benchmarks.gpu_acceptance.fatbin import Gpu
from benchmarks.gpu_acceptance.handover import BARE, TENSORRT
from benchmarks.gpu_acceptance.parts import Device
from benchmarks.latency.bench import Plan
from exporter.cli import console
from exporter.errors import Missing, WrongUse
from exporter.progress import Progress

HOPPER = "9.0"
JSON, PAGE = "gpu_acceptance.json", "gpu_acceptance.md"
_COMMAND = "python -m benchmarks.gpu_acceptance"


def require_gpu() -> None:
    """Check that engines can be built and run here, before minutes of work.

    Raises:
        Missing: TensorRT, a GPU or cuda-python is missing.
    """
    from exporter.targets import tensorrt_runner as _tensorrt_runner
    from exporter.targets import trt

    elsewhere = f"or prepare it here, and run it on a machine with a GPU: {_COMMAND} --prepare DIR"
    try:
        if (missing := trt.lacking()) is not None:
            raise missing
        _tensorrt_runner.load_cuda()
    except Missing as error:
        raise Missing(error.message, hint=f"{error.hint}\n{elsewhere}") from error


def prepare(folder: Path, models: tuple[str, ...], images: int | None, kind: str) -> None:
    """Run the first stage."""
    from benchmarks.gpu_acceptance import prepare as first

    wanted = first.Wanted(models or first.SHIPPED, images, kind)
    with console.progress_bars(quiet=False) as progress:
        first.prepare(wanted, folder, progress)


def pack(
    output: Path, piece_mib: int, gpus: tuple[str, ...], prepare: Callable[[Path, Progress], None]
) -> None:
    """Pack a kit for a bare GPU machine, and print what is in it and how to start it."""
    from benchmarks.gpu_acceptance import kit, wheels

    if "all" in gpus and len(gpus) > 1:
        raise WrongUse("--gpu all and one GPU contradict each other", hint="give one of them")
    keep = () if gpus == ("all",) else tuple(map(Gpu.parse, gpus))
    sources = kit.Sources(wheels.fetch, prepare)
    with console.progress_bars(quiet=False) as progress:
        packed = kit.pack(output, sources, piece_mib * pieces.MIB, keep, progress)

    def row(name: str, after: int, before: int) -> tuple[str, ...]:
        return name, f"{after / 1e6:.1f}", f"{before / 1e6:.1f}"

    rows = [row(part.name, part.after, part.before) for part in packed.parts]
    whole = row("in all", sum(packed.pieces), sum(part.before for part in packed.parts))
    console.table(f"What is in {output}", ("part", "MB", "MB before"), [*rows, whole])
    console.say(
        f"{len(packed.pieces)} pieces of at most {max(packed.pieces) / pieces.MIB:.1f} MiB, "
        "a manifest and start.py"
    )
    console.say(f"now copy {output} to the GPU machine, and run there, inside it: python start.py")


def _copy(prepared: Path) -> Callable[[Path, Progress], None]:
    """Put a folder that --prepare wrote into the kit. Its hashes are checked first."""
    bare.read(prepared)

    def copy(folder: Path, progress: Progress) -> None:
        shutil.copytree(prepared, folder)

    return copy


def _make(models: tuple[str, ...], images: int | None) -> Callable[[Path, Progress], None]:
    """Run the first stage for the kit."""

    def make(folder: Path, progress: Progress) -> None:
        from benchmarks.gpu_acceptance import prepare as first

        first.prepare(first.Wanted(models or first.SHIPPED, images, BARE), folder, progress)

    return make


def _refuse_conflicts(rows: Sequence[tuple[object, str]]) -> None:
    """Refuse options that contradict each other, before any work.

    Args:
        rows: whether options contradict each other, and the error's text.

    Raises:
        WrongUse: for the first row that does.
    """
    for conflict, words in rows:
        if conflict:
            raise WrongUse(words, hint=f"see {_COMMAND} --help")


def try_out(folder: Path, output: Path, plan: Plan, device: run.Device) -> int:
    """Run the second stage, write both files, show the verdicts, and return the exit code."""
    prepared = handover.read(folder)
    work = output / "engines"
    work.mkdir()
    with console.progress_bars(quiet=False) as progress:
        report = run.run(prepared, work, plan, device, progress)
    result_file.write(report, output / JSON)
    (output / PAGE).write_text(page.markdown(report), encoding="utf-8")
    console.table(f"{device.executed}: {page.headline(report)}", page.COLUMNS, page.rows(report))
    console.say(f"to send back: {output / JSON} and {output / PAGE}")
    return exit_code(row["verdict"] for row in report["expectations"])


def run_bare(folder: Path, output: Path, images: int | None, *, rehearse: bool) -> int:
    """Run the second stage without TensorRT, show the results, and return the exit code.

    A part that failed decides nothing, so it counts as not judged.
    """
    with console.progress_bars(quiet=False) as progress:
        device: Device = "cpu" if rehearse else "cuda"
        report = bare.run(folder, output, device=device, images=images, progress=progress)
    console.table(report["executed"], bare_page.PARTS, bare_page.parts(report))
    console.table(page.headline(report), page.COLUMNS, page.rows(report))
    console.say(f"to send back: {output / bare.JSON} and {output / bare.PAGE}")
    verdicts = [row["verdict"] for row in report["expectations"]]
    unfinished = any(part["status"] != "ok" for part in report["parts"])
    return exit_code([*verdicts, *(["not judged"] if unfinished else [])])


def new_folder(output: Path) -> None:
    """Make the output's folder.

    Raises:
        WrongUse: it exists and is not empty.
    """
    output.mkdir(parents=True, exist_ok=True)
    if any(output.iterdir()):
        raise WrongUse(f"{output} is not empty", hint="choose another folder with -o")


_folder = click.Path(path_type=Path, file_okay=False)


@click.command()
@click.option("--prepare", "to", type=_folder, help="Only the first stage, into this new folder.")
@click.option("--run", "prepared", type=_folder, help="Only the second stage, from that folder.")
@click.option(
    "--without",
    type=click.Choice(["tensorrt"]),
    help="For a bare GPU machine: onnxruntime's CUDA provider, our runner, NVML, TensorRT-RTX.",
)
@click.option(
    "--rehearse",
    is_flag=True,
    help="Try --run --without tensorrt on a CPU. This shows nothing about a GPU.",
)
@click.option("--pack", "kit", type=_folder, help="Only pack a test kit, into this new folder.")
@click.option(
    "--piece-mib",
    type=click.IntRange(1, 1024),
    help="--pack: largest size of a piece.  [default: 60]",
)
@click.option(
    "--gpu",
    "gpus",
    multiple=True,
    metavar="X.Y|all",
    help="--pack: keep machine code for this GPU; may be repeated.  [default: 9.0]",
)
@click.option(
    "--prepared",
    "made",
    type=_folder,
    help="--pack: use what --prepare wrote into this folder, instead of preparing it now.",
)
@click.option("--model", "models", multiple=True, help="First stage: zoo name or .keras file.")
@click.option(
    "--images",
    type=click.IntRange(min=1),
    help="First stage, or --without tensorrt: use only so many test images.",
)
@click.option("--rounds", type=click.IntRange(min=5), default=5, show_default=True)
@click.option(
    "--seconds", type=click.FloatRange(min=0), default=2.0, show_default=True, help="Of each block."
)
@click.option(
    "-o",
    "--output",
    type=_folder,
    default=Path("gpu-acceptance"),
    show_default=True,
    help="New folder for the JSON, the page and the engines.",
)
def main(
    to: Path | None,
    prepared: Path | None,
    without: str | None,
    rehearse: bool,
    kit: Path | None,
    piece_mib: int | None,
    gpus: tuple[str, ...],
    made: Path | None,
    models: tuple[str, ...],
    images: int | None,
    rounds: int,
    seconds: float,
    output: Path,
) -> None:
    r"""Check FP16 and INT8 engines of the shipped networks on a GPU.

    \b
    Keras and GPU on one machine:     python -m benchmarks.gpu_acceptance
    on a machine with Keras:          python -m benchmarks.gpu_acceptance --prepare DIR
    on a machine with a GPU:          python -m benchmarks.gpu_acceptance --run DIR
    a GPU and no TensorRT:            both stages with --without tensorrt
    the same, packed as one kit:      python -m benchmarks.gpu_acceptance --pack DIR

    Exit codes: 0 all expectations are met, 3 one is not met, 4 one could not be judged, or
    something is missing here. docs/results.md lists what has run so far.
    """
    if to and prepared:
        raise WrongUse("--prepare and --run are two stages", hint="give one, or neither for both")
    _refuse_conflicts(
        [
            (kit and (to or prepared), "--pack can't be used with --prepare or --run"),
            (
                not kit and (made or piece_mib or gpus),
                "--prepared, --piece-mib and --gpu need --pack",
            ),
            (
                made and (models or images),
                "--model and --images are for preparing, and --prepared is prepared already",
            ),
            (
                rehearse and not (prepared and without),
                "--rehearse needs --run DIR --without tensorrt",
            ),
            (
                prepared and (models or (images and not without)),
                "--model and --images are for the first stage, but --run is the second",
            ),
            (
                without and not (to or prepared),
                "--without tensorrt needs two stages, --prepare and --run, because the GPU machine "
                "has no TensorFlow",
            ),
        ]
    )
    if kit:
        content = _copy(made) if made else _make(models, images)
        pack(kit, piece_mib or 60, gpus or (HOPPER,), content)
        return
    if to:
        prepare(to, models, images, BARE if without else TENSORRT)
        then = " --without tensorrt" if without else ""
        console.say(f"now copy {to} to the GPU machine, and run there: {_COMMAND} --run {to}{then}")
        return
    if prepared and without:
        new_folder(output)
        raise click.exceptions.Exit(run_bare(prepared, output, images, rehearse=rehearse))
    require_gpu()
    new_folder(output)
    if prepared is None:
        prepare(prepared := output / "prepared", models, images, TENSORRT)
    plan = Plan(rounds=rounds, seconds=seconds)
    raise click.exceptions.Exit(try_out(prepared, output, plan, run.GPU))


if __name__ == "__main__":
    command.run(main)
