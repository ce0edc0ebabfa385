"""The command: ``python -m benchmarks.gpu_acceptance``."""

from __future__ import annotations

from pathlib import Path

import click

from benchmarks import command, result_file
from benchmarks.gpu_acceptance import handover, page, run
from benchmarks.gpu_acceptance.expectations import exit_code
from benchmarks.latency import Plan
from exporter import console
from exporter.errors import Missing, WrongUse

JSON, PAGE = "gpu_acceptance.json", "gpu_acceptance.md"
_COMMAND = "python -m benchmarks.gpu_acceptance"


def require_gpu() -> None:
    """Make sure, before minutes of work, that engines can be built and run here.

    Raises:
        Missing: TensorRT, a GPU or cuda-python is not here.
    """
    from exporter.targets import _tensorrt_runner, trt

    elsewhere = f"or prepare it here, and run it where a GPU is: {_COMMAND} --prepare DIR"
    try:
        if (missing := trt.lacking()) is not None:
            raise missing
        _tensorrt_runner.load_cuda()
    except Missing as error:
        raise Missing(error.message, hint=f"{error.hint}\n{elsewhere}") from error


def prepare(folder: Path, models: tuple[str, ...], images: int | None) -> None:
    """Run the first stage."""
    from benchmarks.gpu_acceptance import prepare as first

    wanted = first.Wanted(models or first.SHIPPED, images)
    with console.progress_bars(quiet=False) as progress:
        first.prepare(wanted, folder, progress)


def try_out(folder: Path, output: Path, plan: Plan, device: run.Device) -> int:
    """Run the second stage, write both files, show the verdicts, return the exit code."""
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


def new_folder(output: Path) -> None:
    """Make the output's folder.

    Raises:
        WrongUse: it is there already and holds something.
    """
    output.mkdir(parents=True, exist_ok=True)
    if any(output.iterdir()):
        raise WrongUse(f"{output} is not empty", hint="choose another folder with -o")


_folder = click.Path(path_type=Path, file_okay=False)


@click.command()
@click.option("--prepare", "to", type=_folder, help="Only the first stage, into this new folder.")
@click.option("--run", "prepared", type=_folder, help="Only the second stage, from that folder.")
@click.option("--model", "models", multiple=True, help="First stage: of the zoo, or a .keras file.")
@click.option("--images", type=click.IntRange(min=1), help="First stage: only so many test images.")
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
    models: tuple[str, ...],
    images: int | None,
    rounds: int,
    seconds: float,
    output: Path,
) -> None:
    r"""Hold FP16 and INT8 engines of the shipped networks to what is expected of them on a GPU.

    \b
    Keras and GPU on one machine:     python -m benchmarks.gpu_acceptance
    where Keras is (no GPU needed):   python -m benchmarks.gpu_acceptance --prepare DIR
    where the GPU is (no Keras):      python -m benchmarks.gpu_acceptance --run DIR

    Exit codes: 0 all is met, 3 something is not, 4 something could not be judged or is missing
    here. No engine of this project has run on a GPU yet.
    """
    if to and prepared:
        raise WrongUse("--prepare and --run are two stages", hint="give one, or neither for both")
    if prepared and (models or images):
        raise WrongUse("--model and --images are for the first stage, and --run is the second")
    if to:
        prepare(to, models, images)
        console.say(f"now copy {to} to where the GPU is, and there: {_COMMAND} --run {to}")
        return
    require_gpu()
    new_folder(output)
    if prepared is None:
        prepare(prepared := output / "prepared", models, images)
    plan = Plan(rounds=rounds, seconds=seconds)
    raise click.exceptions.Exit(try_out(prepared, output, plan, run.GPU))


if __name__ == "__main__":
    command.run(main)
