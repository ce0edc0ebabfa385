"""The command line. Heavy libraries load only inside the command that needs them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from calibration.errors import Refusal
from exporter.errors import WrongUse
from exporter.options import build_options, take_build_options
from exporter.targets import TARGETS

if TYPE_CHECKING:
    from collections.abc import Callable

    from benchmarks.accuracy import Accuracy
    from exporter.artifact import Artifact

EPILOG = "Exit codes: 0 done, 1 failed, 2 wrong use, 3 a gate said no, 4 something is missing here."
INTERRUPTED = 130  # what shells give for Ctrl-C


class Commands(click.Group):
    """A group that turns the project's errors into one message and its exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command; show errors as they are meant for users, never as a trace."""
        try:
            return super().invoke(ctx)
        except Refusal as error:
            _fail(error.message, error.hint)
            ctx.exit(error.exit_code)
        except BrokenPipeError:  # `exporter models | head`: click ends it quietly
            raise
        except OSError as error:
            _fail(f"{error.strerror or error}: {error.filename or 'while writing'}", None)
            ctx.exit(1)
        except KeyboardInterrupt:
            _fail("interrupted; unfinished output was removed", None)
            ctx.exit(INTERRUPTED)


def _fail(message: str, hint: str | None) -> None:
    click.secho("error: ", fg="red", err=True, nl=False)
    click.echo(message, err=True)
    if hint:
        click.echo(hint, err=True)


@click.group(
    cls=Commands,
    epilog=EPILOG,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(package_name="exporter")
def main() -> None:
    """Take a trained Keras network to an engine, and prove what it lost and gained.

    \b
    Start here:
      exporter export resnet18 --to ort -o resnet18-ort
      exporter evaluate resnet18-ort --data fashion-mnist
    """


def _count_or_auto(_: click.Context, __: click.Parameter, text: str) -> int | str:
    try:
        return text if text == "auto" else int(text)
    except ValueError:
        raise click.BadParameter(f"{text!r} is neither a number nor auto") from None


json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
data_help = "fashion-mnist, folder:PATH (one folder a class) or npz:PATH."
folder_type = click.Path(path_type=Path)
weights_option = click.option(
    "--weights", metavar="FILE|random", help="For a zoo model; default: as shipped."
)
preprocess_option = click.option(
    "--preprocess",
    type=click.Choice(["unit", "raw", "signed", "caffe", "torch"]),
    help="How images become inputs, for a model that does not carry it.",
)
calibrator_option = click.option(
    "--calibrator",
    type=click.Choice(["entropy", "mse", "percentile", "minmax"]),
    default="mse",
    show_default=True,
    help="INT8: how ranges are chosen.",
)
calibration_images_option = click.option(
    "--calibration-images",
    metavar="N|auto",
    callback=_count_or_auto,
    default="512",
    show_default=True,
    help="INT8, FP16: training images to measure on; auto: until no range moves by more than 5% in "
    "each of two doublings, 8192 at most.",
)
calibration_option = click.option(
    "--calibration", type=folder_type, help="INT8: a calibration.json to use instead of measuring."
)
unsafe_option = click.option(
    "--unsafe", is_flag=True, help="Allow Lambda layers: runs code from the file."
)


def _split(_: click.Context, __: click.Parameter, given: tuple[str, ...]) -> tuple[str, ...]:
    """Read an option that may be repeated, given a list with commas, or both."""
    names = [name.strip() for text in given for name in text.split(",")]
    return tuple(dict.fromkeys(names))


@main.command()
@click.argument("model", default="resnet18")
@click.option("--to", "target", type=click.Choice(list(TARGETS)), required=True, help="Target.")
@click.option(
    "--precision",
    type=click.Choice(["fp32", "fp16", "bf16", "int8"]),
    default="fp32",
    show_default=True,
    help="Of the arithmetic. openvino: fp16 is of the weights only, computed in fp32; bf16 needs a "
    "CPU that has it.",
)
@weights_option
@click.option("--data", help=f"Images to compare with Keras on: {data_help}")
@click.option(
    "--batch",
    metavar="N|MIN:OPT:MAX",
    help="Batch sizes to accept; default: any (trt, trt-rtx: 1:1:32).",
)
@click.option(
    "--layout",
    type=click.Choice(["nhwc", "nchw"]),
    default="nhwc",
    show_default=True,
    help="Of image inputs; nchw spares the engine a transpose.",
)
@preprocess_option
@click.option(
    "--scheme",
    type=click.Choice(["tensorrt", "cpu"]),
    help="INT8: where Q/DQ go; default: as the target needs (ort, openvino: cpu; else tensorrt).",
)
@calibrator_option
@calibration_images_option
@calibration_option
@click.option(
    "--max-drop",
    type=float,
    metavar="POINTS",
    help="INT8: most top-1 to lose, on training images held out; layers stay in float for it.",
)
@click.option(
    "--held-out-images", type=int, default=2000, show_default=True, help="--max-drop: how many."
)
@click.option(
    "--rest",
    type=click.Choice(["fp32", "fp16"]),
    help="INT8: type of all that isn't; default: the target's own (trt, trt-rtx: fp16; else fp32).",
)
@click.option(
    "--io",
    type=click.Choice(["fp32", "fp16"]),
    default="fp32",
    show_default=True,
    help="Of inputs and outputs, where the graph is FP16.",
)
@click.option(
    "--recovery",
    metavar="equalize,rounding,bias",
    multiple=True,
    callback=_split,
    help="INT8: any of these, to win back accuracy; rounding and bias take minutes.",
)
@build_options
@click.option("-o", "--output", type=folder_type, help="Folder; default: MODEL-TARGET.")
@click.option("--force", is_flag=True, help="Replace an artefact that is already there.")
@click.option("--evaluate", "then_evaluate", is_flag=True, help="Measure accuracy afterwards.")
@unsafe_option
@json_option
def export(
    model: str,
    target: str,
    data: str | None,
    batch: str | None,
    output: Path | None,
    then_evaluate: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Export MODEL to an artefact.

    MODEL is a zoo name, a .keras file or a SavedModel folder. The graph is only accepted
    once it agrees with Keras on real images. The artefact is a folder with the graph, the
    engine and a passport; it is written whole or not at all.

    \b
    Examples:
      exporter export resnet18 --to ort
      exporter export resnet18 --to ort --precision int8 --evaluate
      exporter export resnet18 --to openvino --precision fp16
      exporter export resnet18 --to ort --precision int8 --max-drop 0.2
      exporter export mine.keras --to onnx --layout nchw --batch 1
      exporter export resnet50 --to onnx --weights random
      exporter export resnet18 --to trt-rtx --batch 1:8:32
      exporter export resnet18 --to trt --precision int8     (then: exporter compile)
    """
    from exporter import console, pipeline
    from exporter.config import Batch, ExportConfig
    from exporter.models import zoo

    if then_evaluate and data is None and model not in zoo.ZOO:
        raise WrongUse("--evaluate needs to know on which images", hint=f"--data {data_help}")
    config = ExportConfig(
        model=model,
        target=target,
        output=output or Path(f"{Path(model).stem}-{target}"),
        data=data,
        batch=Batch() if batch is None else Batch.parse(batch),
        build=take_build_options(options),
        **options,
    )
    with console.progress_bars(quiet=False) as progress:
        artifact = pipeline.export(config, progress)
    if not as_json:
        console.facts(f"{artifact.path}", console.passport_lines(artifact.passport))
    if then_evaluate:
        shown = None if as_json else console.accuracy_table
        (artifact,) = _evaluate([artifact], data or "fashion-mnist", shown, unsafe=config.unsafe)
    if as_json:
        console.print_json(artifact.passport)


@main.command()
@click.argument("artefact", type=folder_type)
@build_options
@click.option("--force", is_flag=True, help="Build again what is built.")
@json_option
def compile(artefact: Path, force: bool, as_json: bool, **options: Any) -> None:
    """Build the engine of ARTEFACT on this machine.

    The second step of "export --to trt" where that had no GPU. Needs TensorRT and a GPU, and
    neither Keras nor the data nor onnxruntime. The artefact is replaced whole, or left as it
    was. Options given here stand for all that the artefact was exported with.

    \b
    Examples:
      exporter compile resnet18-trt
      exporter compile resnet18-trt --opt-level 5 --force
    """
    from exporter import console
    from exporter.finish import finish

    asked = take_build_options(options)
    with console.progress_bars(quiet=False) as progress:
        done = finish(artefact, asked if asked.asked else None, force=force, progress=progress)
    if as_json:
        console.print_json(done.passport)
    else:
        console.facts(str(artefact), console.passport_lines(done.passport))


@main.command()
@click.argument("artefacts", type=folder_type, nargs=-1, required=True)
@click.option("--data", required=True, help=data_help)
@click.option("--limit", type=click.IntRange(min=1), help="Only the first so many images.")
@click.option("--original", help="Where the Keras model is, if not where the passport says.")
@click.option("--unsafe", is_flag=True, help="Allow Lambda layers in the original.")
@json_option
def evaluate(
    artefacts: tuple[Path, ...],
    data: str,
    limit: int | None,
    original: str | None,
    unsafe: bool,
    as_json: bool,
) -> None:
    """Compare ARTEFACTS with Keras on test images.

    Reports top-1, top-5, agreement with Keras, every image whose label flips, and the
    largest and mean logit error. On all images the result also goes into the passport.
    """
    from exporter import artifact, console

    def as_object(rows: list[Accuracy]) -> None:
        console.print_json({"data": data, "results": [row.as_json() for row in rows]})

    shown = as_object if as_json else console.accuracy_table
    artifacts = [artifact.read(path) for path in artefacts]
    _evaluate(artifacts, data, shown, limit=limit, original=original, unsafe=unsafe)


def _evaluate(
    artifacts: list[Artifact],
    data: str,
    show: Callable[[list[Accuracy]], None] | None,
    limit: int | None = None,
    **options: Any,
) -> list[Artifact]:
    """Measure, show, and only then record: a full disk must not cost the result."""
    from benchmarks import accuracy
    from exporter import console

    with console.progress_bars(quiet=False) as progress:
        rows = accuracy.evaluate(artifacts, data, limit=limit, progress=progress, **options)
    if show is not None:
        show(rows)
    if limit is not None:
        return artifacts
    return [
        one.record("accuracy", {"data": data, "keras": rows[0].as_json(), **row.as_json()})
        for one, row in zip(artifacts, rows[1:], strict=True)
    ]


@main.command()
@click.argument("model")
@click.option("--data", default="fashion-mnist", show_default=True, help=data_help)
@click.option("--epochs", type=int, required=True, help="Passes over the training images.")
@click.option("--image-size", type=int, default=96, show_default=True, help="In pixels.")
@click.option("-o", "--output", type=folder_type, help="Default: MODEL.keras.")
@click.option("--start-from", type=folder_type, help="Take the weights from this .keras file.")
@click.option("--batch-size", type=int, default=128, show_default=True, help="Images a step.")
@click.option("--learning-rate", type=float, default=0.1, show_default=True, help="At its peak.")
@click.option("--momentum", type=float, default=0.9, show_default=True, help="Nesterov's.")
@click.option("--weight-decay", type=float, default=5e-4, show_default=True, help="On kernels.")
@click.option("--warmup-epochs", type=float, default=0.5, show_default=True, help="Linear.")
@click.option("--label-smoothing", type=float, default=0.0, show_default=True, help="0 to 1.")
@click.option("--flip/--no-flip", default=True, show_default=True, help="Mirror at random.")
@click.option("--shift", type=float, default=0.04, show_default=True, help="Share of the side.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of all that is random.")
@click.option("--limit", type=int, help="Use only so many training images.")
@json_option
def train(model: str, output: Path | None, as_json: bool, **options: Any) -> None:
    """Train a zoo MODEL.

    SGD with Nesterov momentum, a cosine schedule after a warm-up, flips and shifts.
    A run that was killed goes on from its last finished epoch when the same command is
    given again. Beside the .keras file go its history as JSON and as a picture.

    \b
    Examples:
      exporter train resnet18 --epochs 5
      exporter train resnet18 --image-size 48 --epochs 3 -o small.keras
      exporter train resnet18 --epochs 1 --start-from small.keras --learning-rate 0.02
    """
    from exporter import console
    from exporter.train import TrainConfig
    from exporter.train import train as run

    config = TrainConfig(model=model, output=output or Path(f"{model}.keras"), **options)
    with console.progress_bars(quiet=False) as progress:
        result = run(config, progress)
    if as_json:
        console.print_json(result)
    else:
        test = result["test"]
        console.say(
            f"{config.output}: top-1 {test['top1']:.4f} "
            f"({test['correct']} of {test['images']} test images)"
        )


@main.command()
@click.argument("model", default="resnet18")
@click.option(
    "--scheme",
    type=click.Choice(["tensorrt", "cpu"]),
    default="cpu",
    show_default=True,
    help="Where Q/DQ go.",
)
@click.option(
    "--images", type=click.IntRange(1), default=512, show_default=True, help="Held out, to run on."
)
@weights_option
@click.option("--data", help=data_help)
@preprocess_option
@calibrator_option
@calibration_images_option
@calibration_option
@click.option("-o", "--output", type=folder_type, help="A picture: .png, .svg or .pdf.")
@unsafe_option
@json_option
def sensitivity(
    model: str, scheme: str, images: int, output: Path | None, as_json: bool, **options: Any
) -> None:
    """Rank MODEL's layers by what INT8 costs in each.

    Every convolution and dense layer is quantised alone, the rest left in float, and the logits
    are compared with the float graph's, on training images that are neither calibrated on nor
    in the test set. SQNR is the logits' energy by their error's, in dB; flips are labels that
    change; MMACs are the multiply-adds an image takes, the price of leaving the layer in float.

    \b
    Examples:
      exporter sensitivity resnet18
      exporter sensitivity mine.keras --preprocess torch --data folder:photos -o layers.png
    """
    from exporter import console, pipeline
    from exporter.config import ExportConfig
    from exporter.sensitivity import check_picture, draw

    if output is not None:
        check_picture(output)
    target = next(row.name for row in TARGETS.values() if row.scheme == scheme)
    config = ExportConfig(
        model, target, Path(), precision="int8", held_out_images=images, **options
    )
    with console.progress_bars(quiet=False) as progress:
        result = pipeline.measure_sensitivity(config, progress)
    if output is not None:
        draw(result, output)
    if as_json:
        console.print_json({"model": model, **result.as_json()})
    else:
        console.sensitivity_table(result)


@main.command()
@click.argument("artefact", type=folder_type)
@click.option("--profile", type=folder_type, help="Times by layer: trtexec --exportProfile.")
@click.option(
    "--require",
    type=click.Choice(["int8"]),
    help="Exit with 3 unless every convolution and residual add runs in it.",
)
@json_option
def inspect(artefact: Path, profile: Path | None, require: str | None, as_json: bool) -> None:
    """Show what ARTEFACT is, and what its engine runs.

    Its files are verified against the passport first; then come source, graph, passes, checks.
    Where the artefact has its engine's layers, or ARTEFACT is a file that trtexec wrote with
    --exportLayerInfo, the fusion audit tells in what each convolution runs, which residual adds
    left INT8 and which shortcut lacks Q/DQ, the reformats, and the time by layer.

    \b
    Examples:
      exporter inspect resnet18-trt --require int8
      exporter inspect layers.json --profile profile.json
    """
    from exporter import console, console_engine
    from exporter.inspection import inspect as look

    found = look(artefact, profile)
    if as_json:
        console.print_json(found.as_json())
    else:
        if found.passport is not None:
            console.facts(str(artefact), console.passport_lines(found.passport))
        if found.audit is not None:
            console_engine.show_audit(found.audit)
    if require is not None:
        found.require_int8()


@main.command()
@json_option
def models(as_json: bool) -> None:
    """List the zoo.

    Shows which models ship with trained weights, and their top-1 on Fashion-MNIST.
    """
    from exporter import console
    from exporter.models import zoo

    if as_json:
        console.print_json({"models": [zoo.describe(row) for row in zoo.ZOO.values()]})
    else:
        console.zoo_table([zoo.describe(row) for row in zoo.ZOO.values()])


@main.command()
@click.argument("artefact", type=folder_type, required=False)
@click.option(
    "--for", "machine", metavar="MACHINE", help="jetson-orin-jp6.2, t4...; default: here."
)
@click.option("--tensorrt", metavar="VERSION", help="What MACHINE has, where that is not given.")
@click.option("--driver", metavar="VERSION", help="Likewise.")
@json_option
def doctor(
    artefact: Path | None,
    machine: str | None,
    tensorrt: str | None,
    driver: str | None,
    as_json: bool,
) -> None:
    """Tell which targets work here, or whether ARTEFACT's engine loads.

    Alone, it looks at this machine's CPU, GPU and packages, and says how to get what is missing.
    With an artefact for TensorRT, it judges from the passport, before anything is deserialised,
    whether the engine loads here or on a named machine, and quotes the rule. It ends with 0 if
    it loads, 3 if not, 4 if something that decides is not known.

    \b
    Examples:
      exporter doctor
      exporter doctor resnet18-trt
      exporter doctor resnet18-trt --for jetson-orin-jp6.2
      exporter doctor resnet18-trt --for t4 --tensorrt 10.13.3 --driver 580.65
    """
    from exporter import artifact, console, console_engine
    from exporter.doctor import diagnose, engine_fit

    if artefact is None:
        if machine or tensorrt or driver:
            raise WrongUse(
                "--for, --tensorrt and --driver say where an engine should load, and none is given",
                hint="exporter doctor ARTEFACT --for MACHINE",
            )
        diagnosis = diagnose()
        if as_json:
            console.print_json(diagnosis.as_json())
        else:
            console.show_diagnosis(diagnosis)
        return
    fit = engine_fit(artifact.read(artefact), machine, tensorrt, driver)
    if as_json:
        console.print_json(fit.as_json())
    else:
        console_engine.show_fit(str(artefact), fit)
    fit.require_loads()


def export_main() -> None:
    """Run ``exporter export`` under its other name."""
    main(args=["export", *sys.argv[1:]], prog_name="exporter")
