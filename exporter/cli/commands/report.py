"""``exporter report``: artifacts and what was measured of them, as one page."""

from __future__ import annotations

from pathlib import Path

import click

from exporter.cli.options import folder_type, json_option
from exporter.errors import WrongUse

_PAGE = Path("report.html")
_file_type = click.Path(path_type=Path, dir_okay=False)


@click.command()
@click.argument("folder", metavar="DIR", type=folder_type)
@click.option(
    "-o",
    "--output",
    type=_file_type,
    help=f"The page.  [default: {_PAGE}, unless --json or --markdown is given]",
)
@click.option("--markdown", type=_file_type, metavar="FILE", help="The same as Markdown, there.")
@json_option
def report(folder: Path, output: Path | None, markdown: Path | None, as_json: bool) -> None:
    """Write one HTML page about DIR: an artifact, or a folder of artifacts and results.

    Shows what was measured and nothing else: accuracy beside latency, distributions of latency and
    its curve over batch sizes, the drift ladder, layer sensitivities, the passports. Each figure
    comes with its table, its machine and its command. The page is one file that loads nothing from
    the network and runs no script; it follows light and dark, and reads on a phone.

    Results are found by what is in them, at any depth up to 4: passports (export --evaluate,
    evaluate and bench record there), what bench -o, evaluate --ladder -o, evaluate --json and
    sensitivity --json wrote. What is not measured yet stands there with its command. A page that
    is there is replaced.

    \b
    Example:
      exporter export resnet18 --to ort --precision int8 --evaluate -o r18/int8
      exporter bench r18/int8 -o r18/bench.json
      exporter evaluate r18/int8 --data fashion-mnist --ladder --layers -o r18/drift
      exporter report r18 -o r18.html
    """
    from benchmarks.report import build, page, read
    from exporter.cli import console

    if output is None and markdown is None and not as_json:
        output = _PAGE
    for file in (output, markdown):
        if file is not None and not file.absolute().parent.is_dir():
            raise WrongUse(f"no such folder: {file.absolute().parent}")
    if output is not None and markdown is not None and output.absolute() == markdown.absolute():
        raise WrongUse(f"-o and --markdown are the same file: {output}")
    findings = read.gather(folder, console.passport_lines)
    laid_out = build.build(findings)
    if output is not None:
        page.write(page.as_html(laid_out), output)
    if markdown is not None:
        page.write(page.as_markdown(laid_out), markdown)
    for one in findings.missed:
        click.echo(f"not shown: {one.file}: {one.why}", err=True)
    if as_json:
        console.print_json(build.as_json(findings, laid_out))
        return
    for file in (output, markdown):
        if file is not None:
            console.say(str(file), markup=False)
