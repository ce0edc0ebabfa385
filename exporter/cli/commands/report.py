"""``exporter report``: one page about artifacts and their measurements."""

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
    help=f"Write the page here.  [default: {_PAGE}, unless --json or --markdown is given]",
)
@click.option(
    "--markdown", type=_file_type, metavar="FILE", help="Write the same content here as Markdown."
)
@json_option
def report(folder: Path, output: Path | None, markdown: Path | None, as_json: bool) -> None:
    """Write one HTML page about DIR: an artifact, or a folder of artifacts and results.

    The page shows only measurements: accuracy and latency, latency distributions, latency by batch
    size, the drift ladder, layer sensitivities and the passports. Each figure comes with its
    table, its machine and its command. The page is one file. It loads nothing from the network,
    runs no scripts, supports light and dark mode, and is readable on a phone.

    report recognizes results by their content, up to 4 folders deep: passports (export --evaluate,
    evaluate and bench save results in them) and files written by bench -o, evaluate --ladder -o,
    evaluate --json and sensitivity --json. If something isn't measured yet, the page shows the
    command for it. report replaces an existing page.

    \b
    Example:
      exporter export resnet18 --to ort --precision int8 --evaluate -o r18/int8
      exporter bench r18/int8 -o r18/bench.json
      exporter evaluate r18/int8 --data fashion-mnist --ladder --layers -o r18/drift
      exporter report r18 -o r18.html
    """
    from benchmarks.report import build, page, read
    from exporter.cli import console, passport
    from exporter.output import check_parent

    if output is None and markdown is None and not as_json:
        output = _PAGE
    for file in (output, markdown):
        if file is not None:
            check_parent(file)
    if output is not None and markdown is not None and output.absolute() == markdown.absolute():
        raise WrongUse(f"-o and --markdown are the same file: {output}")
    findings = read.gather(folder, passport.passport_lines)
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
