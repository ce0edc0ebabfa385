"""Commands that look and change nothing: ``inspect``, ``models``, ``doctor``."""

from __future__ import annotations

from pathlib import Path

import click

from exporter.cli.options import folder_type, json_option
from exporter.errors import WrongUse


@click.command()
@click.argument("artefact", type=folder_type)
@click.option("--profile", type=folder_type, help="Times by layer: trtexec --exportProfile.")
@click.option(
    "--require",
    type=click.Choice(["int8"]),
    help="Exit with 3 unless every convolution runs in it and every residual shortcut has Q/DQ.",
)
@json_option
def inspect(artefact: Path, profile: Path | None, require: str | None, as_json: bool) -> None:
    """Show what ARTEFACT is, and what its engine runs.

    Its files are verified against the passport first; then come source, graph, passes, checks.
    Where the artifact has its engine's layers, or ARTEFACT is a file that trtexec wrote with
    --exportLayerInfo, the fusion audit tells in what each convolution runs, which residual adds
    left INT8 and which shortcut lacks Q/DQ, the reformats, and the time by layer.

    \b
    Examples:
      exporter inspect resnet18-trt --require int8
      exporter inspect layers.json --profile profile.json
    """
    from exporter.cli import console
    from exporter.cli import engine as console_engine
    from exporter.engines.inspection import inspect as look

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


@click.command()
@json_option
def models(as_json: bool) -> None:
    """List the zoo.

    Shows which models ship with trained weights, and their top-1 on Fashion-MNIST.
    """
    from exporter.cli import console
    from exporter.models import zoo

    if as_json:
        console.print_json({"models": [zoo.describe(row) for row in zoo.ZOO.values()]})
    else:
        console.zoo_table([zoo.describe(row) for row in zoo.ZOO.values()])


@click.command()
@click.argument("artefact", type=folder_type, required=False)
@click.option(
    "--for",
    "machine",
    metavar="MACHINE",
    help="jetson-orin-jp6.2, t4...; a name that is not known lists the nearest; default: here.",
)
@click.option("--tensorrt", metavar="VERSION", help="TensorRT there, in place of the table's.")
@click.option("--driver", metavar="VERSION", help="NVIDIA driver there, likewise.")
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
    With an artifact for TensorRT, it judges from the passport, before anything is deserialized,
    whether the engine loads here or on a named machine, and quotes the rule. It ends with 0 if
    it loads, 3 if not, 4 if something that decides is not known.

    \b
    Examples:
      exporter doctor
      exporter doctor resnet18-trt
      exporter doctor resnet18-trt --for jetson-orin-jp6.2
      exporter doctor resnet18-trt --for t4 --tensorrt 10.13.3 --driver 580.65
    """
    from exporter.artifact import folder as artifact
    from exporter.cli import console
    from exporter.cli import engine as console_engine
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
