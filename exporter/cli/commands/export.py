"""``exporter export`` and ``exporter compile``: from a network to an engine."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import click

from exporter.cli.options import (
    build_options,
    calibration_images_option,
    calibration_option,
    calibrator_option,
    data_help,
    folder_type,
    json_option,
    preprocess_option,
    recovery_names,
    take_build_options,
    unsafe_option,
    weights_option,
)
from exporter.config import Precision
from exporter.errors import Missing, WrongUse
from exporter.targets import TARGETS


@click.command()
@click.argument("model", default="resnet18")
@click.option("--to", "target", type=click.Choice(list(TARGETS)), required=True, help="Target.")
@click.option(
    "--precision",
    type=click.Choice(get_args(Precision)),
    default="fp32",
    show_default=True,
    help="Of the arithmetic. ort: fp32, int8. openvino: fp16 is of the weights only, computed in "
    "fp32; bf16 needs a CPU that has it. onnx, trt, trt-rtx: all but bf16; fp8 is E4M3 for GPUs of "
    "compute capability 8.9 or later.",
)
@weights_option
@click.option(
    "--data",
    help=f"Test images to compare with Keras on, training images to measure INT8, FP8 and FP16 on: "
    f"{data_help}  [default: fashion-mnist; of a network of yours only to compare, where it fits]",
)
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
    help="Of image inputs; nchw spares the engine a transpose, and wants to be fed so.",
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
    "--weight-bits",
    type=click.Choice(["7", "8"]),
    callback=lambda _, __, text: text and int(text),
    help="INT8, scheme cpu: 7 for CPUs without VNNI, where sums of 8 saturate; default: as this "
    "machine's CPU needs.",
)
@click.option(
    "--max-drop",
    type=float,
    metavar="POINTS",
    help="INT8, FP8: most top-1 to lose, on training images held out; layers stay in float for it.",
)
@click.option(
    "--held-out-images", type=int, default=2000, show_default=True, help="--max-drop: how many."
)
@click.option(
    "--rest",
    type=click.Choice(["fp32", "fp16"]),
    help="INT8, FP8: type of what it leaves in floating point; default: fp16 with FP8 and on trt "
    "and trt-rtx, else fp32.",
)
@click.option(
    "--io",
    type=click.Choice(["fp32", "fp16"]),
    default="fp32",
    show_default=True,
    help="Type of inputs and outputs, where the graph has FP16 (--precision or --rest fp16).",
)
@click.option(
    "--recovery",
    metavar="auto|none|NAMES",
    multiple=True,
    callback=recovery_names,
    help="INT8, FP8: to win back accuracy, any of equalize (even out weight ranges; INT8), "
    "rounding (of weights, for their layer's output), bias (corrected for the mean error).  "
    "[default: auto, rounding where weights have 7 bits]",
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
    """Export MODEL to an artifact.

    MODEL is a zoo name (resnet18 where it is left out), a .keras file or a SavedModel folder. The
    graph is only accepted once it agrees with Keras, on images of --data where that is given;
    what INT8, FP8 or FP16 then cost is for --evaluate to say. The artifact is a folder with the
    graph, the engine and a passport; it is written whole or not at all.

    \b
    Examples:
      exporter export resnet18 --to ort
      exporter export resnet18 --to ort --precision int8 --evaluate
      exporter export resnet18 --to openvino --precision fp16
      exporter export resnet18 --to ort --precision int8 --max-drop 0.2
      exporter export resnet18 --to ort --precision int8 --weight-bits 7   (for another CPU)
      exporter export mine.keras --to trt --precision int8 --preprocess caffe --data folder:photos
      exporter export mine.keras --to onnx --layout nchw --batch 1 --preprocess unit
      exporter export resnet50 --to onnx --weights random
      exporter export resnet18 --to trt-rtx --batch 1:8:32
      exporter export resnet18 --to trt --precision int8     (then: exporter compile)
      exporter export resnet18 --to trt-rtx --precision fp8
    """
    from exporter import pipeline
    from exporter.cli import console
    from exporter.cli.commands.evaluate import measure
    from exporter.config import Batch, ExportConfig

    if then_evaluate:
        _check_evaluation(model, data, options)
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
        (artifact,) = measure([artifact], data or "fashion-mnist", shown, unsafe=config.unsafe)
    if as_json:
        console.print_json(artifact.passport)


def _check_evaluation(model: str, data: str | None, options: dict[str, Any]) -> None:
    """Refuse before the work what could not be evaluated after it."""
    from exporter.machine.cpus import lacks_vnni
    from exporter.models import zoo

    ours = model in zoo.ZOO and options["weights"] in (None, "random")
    if data is None and not ours:
        raise WrongUse("--evaluate needs to know on which images", hint=f"--data {data_help}")
    if options["weight_bits"] == 8 and lacks_vnni():
        raise Missing(
            "--evaluate runs the integers here, and this CPU has no VNNI: sums would saturate",
            hint="leave it out, and evaluate on a CPU with VNNI",
        )


@click.command()
@click.argument("artefact", type=folder_type)
@build_options
@click.option("--force", is_flag=True, help="Build again what is built.")
@json_option
def compile(artefact: Path, force: bool, as_json: bool, **options: Any) -> None:
    """Build the engine of ARTEFACT on this machine.

    The second step of "export --to trt" where that had no GPU. Needs TensorRT and a GPU, and
    neither Keras nor the data nor onnxruntime. The artifact is replaced whole, or left as it
    was. Options given here stand in place of the same ones that it was exported with; to take one
    back, export again.

    \b
    Examples:
      exporter compile resnet18-trt
      exporter compile resnet18-trt --opt-level 5 --force
    """
    from exporter.cli import console
    from exporter.finish import finish

    asked = take_build_options(options)
    with console.progress_bars(quiet=False) as progress:
        done = finish(artefact, asked, force=force, progress=progress)
    if as_json:
        console.print_json(done.passport)
    else:
        console.facts(str(artefact), console.passport_lines(done.passport))
