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
    input_size_option,
    json_option,
    preprocess_option,
    recovery_names,
    take_build_options,
    trust_options,
    weights_option,
)
from exporter.config import Precision
from exporter.errors import Missing, WrongUse
from exporter.targets import TARGETS


@click.command()
@click.argument("model", default="resnet18")
@click.option(
    "--to", "target", type=click.Choice(list(TARGETS)), required=True, help="Export target."
)
@click.option(
    "--precision",
    type=click.Choice(get_args(Precision)),
    default="fp32",
    show_default=True,
    help="Precision of the arithmetic. ort: fp32, int8. openvino: fp16 stores the weights in fp16 "
    "and computes in fp32; bf16 needs a CPU that has it. onnx, trt, trt-rtx: all but bf16; fp8 is "
    "E4M3, for GPUs of compute capability 8.9 or later.",
)
@weights_option
@click.option(
    "--data",
    help="Test images for the comparison with Keras, and training images for measuring INT8, FP8 "
    f"and FP16: {data_help}  [default: fashion-mnist; your own network is only compared on it, if "
    "its inputs fit]",
)
@click.option(
    "--batch",
    metavar="N|MIN:OPT:MAX",
    help="Batch sizes that the engine accepts. The default is any; for trt and trt-rtx, 1:1:32.",
)
@input_size_option
@click.option(
    "--layout",
    type=click.Choice(["nhwc", "nchw"]),
    default="nhwc",
    show_default=True,
    help="Layout of image inputs. nchw saves the engine a transpose, but you must feed it NCHW "
    "images.",
)
@preprocess_option
@click.option(
    "--scheme",
    type=click.Choice(["tensorrt", "cpu"]),
    help="INT8: where to place Q/DQ. The default fits the target: cpu for ort and openvino, "
    "tensorrt for all others.",
)
@calibrator_option
@calibration_images_option
@calibration_option
@click.option(
    "--weight-bits",
    type=click.Choice(["7", "8"]),
    callback=lambda _, __, text: text and int(text),
    help="INT8, scheme cpu: use 7 for CPUs without VNNI, where sums of 8-bit weights saturate. The "
    "default fits this machine's CPU.",
)
@click.option(
    "--max-drop",
    type=float,
    metavar="POINTS",
    help="INT8, FP8: most points of top-1 to lose, measured on held-out training images. Layers "
    "stay in float to keep to this limit.",
)
@click.option(
    "--held-out-images",
    type=int,
    default=2000,
    show_default=True,
    help="Number of held-out training images for --max-drop.",
)
@click.option(
    "--rest",
    type=click.Choice(["fp32", "fp16"]),
    help="INT8, FP8: type of the parts that stay in floating point. The default is fp16 with FP8 "
    "and for trt and trt-rtx, and fp32 otherwise.",
)
@click.option(
    "--io",
    type=click.Choice(["fp32", "fp16"]),
    default="fp32",
    show_default=True,
    help="Type of inputs and outputs. fp16 needs a graph with FP16 (--precision or --rest fp16).",
)
@click.option(
    "--recovery",
    metavar="auto|none|NAMES",
    multiple=True,
    callback=recovery_names,
    help="INT8, FP8: how to recover accuracy. equalize: even out weight ranges (INT8 only); "
    "rounding: round weights so that their layer's output changes least; bias: correct biases for "
    "the mean error.  [default: auto, which is rounding if weights have 7 bits, otherwise none]",
)
@build_options
@click.option("-o", "--output", type=folder_type, help="Output folder; default: MODEL-TARGET.")
@click.option("--force", is_flag=True, help="Replace an existing artifact.")
@click.option("--evaluate", "then_evaluate", is_flag=True, help="Measure accuracy afterwards.")
@trust_options
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

    MODEL is a zoo name, a .keras, .h5 or .hdf5 file, or a SavedModel folder. The default is
    resnet18. export accepts the FP32 graph only if it agrees with Keras, on images of --data if you
    give them. Use --evaluate to measure what INT8, FP8 or FP16 then costs. The artifact is a folder
    with the graph, the engine and a passport. It is written completely or not at all.

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
      exporter export backbone.keras --to onnx --import keras_hub
    """
    from exporter import pipeline
    from exporter.cli import console, passport
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
        console.facts(f"{artifact.path}", passport.passport_lines(artifact.passport))
    if then_evaluate:
        shown = None if as_json else console.accuracy_table
        (artifact,) = measure([artifact], data or "fashion-mnist", shown, trust=config.trust)
    if as_json:
        console.print_json(artifact.passport)


def _check_evaluation(model: str, data: str | None, options: dict[str, Any]) -> None:
    """Raise an error before the export if the result couldn't be evaluated afterwards."""
    from exporter.machine.cpus import lacks_vnni
    from exporter.models import zoo

    ours = model in zoo.ZOO and options["weights"] in (None, "random")
    if data is None and not ours:
        raise WrongUse("--evaluate needs test images", hint=f"add --data: {data_help}")
    if options["weight_bits"] == 8 and lacks_vnni():
        raise Missing(
            "--evaluate can't run 8-bit weights here: this CPU has no VNNI, so sums would saturate",
            hint="leave --evaluate out, and run exporter evaluate on a CPU with VNNI",
        )


@click.command()
@click.argument("artefact", metavar="ARTIFACT", type=folder_type)
@build_options
@click.option("--force", is_flag=True, help="Rebuild an engine that is already built.")
@json_option
def compile(artefact: Path, force: bool, as_json: bool, **options: Any) -> None:
    """Build the engine of ARTIFACT on this machine.

    Run this after "export --to trt" on a machine without a GPU. It needs TensorRT and a GPU, but
    not Keras, the data or onnxruntime. The artifact is replaced completely, or left as it was.
    Options override those that you exported with. To remove an option, export again.

    \b
    Examples:
      exporter compile resnet18-trt
      exporter compile resnet18-trt --opt-level 5 --force
    """
    from exporter.cli import console, passport
    from exporter.finish import finish

    asked = take_build_options(options)
    with console.progress_bars(quiet=False) as progress:
        done = finish(artefact, asked, force=force, progress=progress)
    if as_json:
        console.print_json(done.passport)
    else:
        console.facts(str(artefact), passport.passport_lines(done.passport))
