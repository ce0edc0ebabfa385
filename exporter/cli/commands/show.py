"""Commands that only look and change nothing: ``inspect``, ``models``, ``doctor``."""

from __future__ import annotations

from pathlib import Path

import click

from exporter.cli.options import folder_type, json_option
from exporter.errors import WrongUse


@click.command()
@click.argument("artefact", metavar="ARTIFACT", type=folder_type)
@click.option(
    "--profile", type=folder_type, help="Times by layer, written by trtexec --exportProfile."
)
@click.option(
    "--require",
    type=click.Choice(["int8"]),
    help="Exit with 3 unless every convolution runs in INT8 and every residual shortcut has Q/DQ.",
)
@json_option
def inspect(artefact: Path, profile: Path | None, require: str | None, as_json: bool) -> None:
    """Show what ARTIFACT contains, and what its engine runs.

    inspect first verifies the files against the passport. Then it shows the source, the graph, the
    passes and the checks. ARTIFACT may also be a file that trtexec wrote with --exportLayerInfo.
    For such a file, or an artifact that has its engine's layers, inspect shows the fusion audit:
    the precision of each convolution, the residual adds that left INT8, the shortcuts that lack
    Q/DQ, the reformats, and the time by layer.

    \b
    Examples:
      exporter inspect resnet18-trt --require int8
      exporter inspect layers.json --profile profile.json
    """
    from exporter.cli import console, passport
    from exporter.cli import engine as console_engine
    from exporter.engines.inspection import inspect as look

    found = look(artefact, profile)
    if as_json:
        console.print_json(found.as_json())
    else:
        if found.passport is not None:
            console.facts(str(artefact), passport.passport_lines(found.passport))
        if found.audit is not None:
            console_engine.show_audit(found.audit)
    if require is not None:
        found.require_int8()


@click.command()
@json_option
def models(as_json: bool) -> None:
    """List the zoo's models.

    Shows which models have shipped weights, and their top-1 on Fashion-MNIST.
    """
    from exporter.cli import console
    from exporter.models import zoo

    if as_json:
        console.print_json({"models": [zoo.describe(row) for row in zoo.ZOO.values()]})
    else:
        console.zoo_table([zoo.describe(row) for row in zoo.ZOO.values()])


@click.command()
@click.argument("artefact", metavar="[ARTIFACT]", type=folder_type, required=False)
@click.option(
    "--for",
    "machine",
    metavar="MACHINE",
    help="Machine to judge for, such as jetson-orin-jp6.2 or t4. An unknown name lists the nearest "
    "ones. The default is this machine.",
)
@click.option("--tensorrt", metavar="VERSION", help="Assume this TensorRT version on that machine.")
@click.option("--driver", metavar="VERSION", help="Assume this NVIDIA driver on that machine.")
@json_option
def doctor(
    artefact: Path | None,
    machine: str | None,
    tensorrt: str | None,
    driver: str | None,
    as_json: bool,
) -> None:
    """Show which targets work here, or whether ARTIFACT's engine loads.

    Without ARTIFACT, doctor looks at this machine's CPU, GPU and packages, and shows how to
    install what is missing. With a TensorRT artifact, it judges from the passport whether the
    engine loads here or on the given machine, and quotes the rules. It doesn't deserialize the
    engine. The exit code is 0 if the engine loads, 3 if it doesn't, and 4 if a fact that decides
    is unknown.

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
    from exporter.diagnosis import diagnose, engine_fit

    if artefact is None:
        if machine or tensorrt or driver:
            raise WrongUse(
                "--for, --tensorrt and --driver need an artifact to judge",
                hint="name one: exporter doctor ARTIFACT --for MACHINE",
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
