"""What the terminal shows: progress bars and tables. Only the command line imports this."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import Progress as RichProgress
from rich.table import Table
from rich.text import Text

from exporter.artifact.folder import quantization_of
from exporter.cli import interrupt, names
from exporter.progress import Progress

if TYPE_CHECKING:
    from benchmarks.accuracy.measure import Accuracy
    from exporter.doctor import Diagnosis
    from exporter.precision.sensitivity import Sensitivity

_FLIPS_SHOWN = 20
_LINE_EVERY_S = 30.0
_WHOLE_NAME = 12


@contextmanager
def progress_bars(quiet: bool) -> Iterator[Progress]:
    """Show one bar per stage on standard error, or plain lines if that is not a terminal.

    Each report is also a place where Ctrl-C stops the work, if a library swallowed it.
    """
    console = Console(stderr=True, quiet=quiet)
    with interrupt.remembered() as stop, _shown(console) as show:

        def report(stage: str, done: int, total: int, note: str = "") -> None:
            if done < total:  # else the work is done, and its output in place
                stop()
            show(stage, done, total, note)

        yield report


@contextmanager
def _shown(console: Console) -> Iterator[Progress]:
    if not console.is_terminal:
        yield _Lines(console)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("[dim]{task.fields[note]}"),
    )
    with RichProgress(*columns, console=console) as bars:
        tasks: dict[str, TaskID] = {}

        def show(stage: str, done: int, total: int, note: str = "") -> None:
            if stage not in tasks:
                tasks[stage] = bars.add_task(stage, total=total, note=note)
            bars.update(tasks[stage], completed=done, total=total, note=note)

        yield show


class _Lines:
    """Log progress: one line at the start and end of each stage, and one every 30 s."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._shown: dict[str, float] = {}

    def __call__(self, stage: str, done: int, total: int, note: str = "") -> None:
        import time

        now = time.monotonic()
        due = now - self._shown.get(stage, float("-inf")) >= _LINE_EVERY_S
        if due or done >= total or stage == "export":
            self._shown[stage] = now
            self._console.print(f"{stage}: {done}/{total} {note}".rstrip(), highlight=False)


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table with its first column left-aligned and the others right-aligned.

    If the table is too wide, the first column gets the space that the others leave, and paths in
    it lose their leading folders. rich would otherwise cut the first column first.
    """
    console = Console()
    shown = _table(title, columns, rows, None)
    endless = console.options.update(max_width=10_000)
    if console.measure(shown, options=endless).maximum > console.width:
        others = _table(title, columns, [["", *row[1:]] for row in rows], None)
        need = console.measure(others, options=endless)
        # Space left for the first column when the others are at their widest and narrowest.
        wide, narrow = (
            max(_WHOLE_NAME, console.width - other + len(columns[0]))
            for other in (need.maximum, need.minimum)
        )
        short = names.shorten([row[0] for row in rows], wide, narrow)
        rows = [[name, *row[1:]] for name, row in zip(short, rows, strict=True)]
        words = max(names.longest_word(name) for name in [columns[0], *short])
        longest = max(map(len, [columns[0], *short]))
        shown = _table(title, columns, rows, min(max(words, min(longest, wide)), narrow))
    console.print(shown)


def _table(
    title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], width: int | None
) -> Table:
    shown = Table(title=title, title_justify="left")
    shown.add_column(columns[0], overflow="fold", width=width)
    for column in columns[1:]:
        shown.add_column(column, justify="right", overflow="fold")
    for row in rows:
        shown.add_row(*row)
    return shown


def facts(title: str, pairs: Sequence[tuple[str, str]]) -> None:
    """Print one name and value per line. Brackets aren't markup, as values may come from files."""
    shown = Table(title=Text(title), title_justify="left", show_header=False, box=None)
    shown.add_column(style="bold")
    shown.add_column(overflow="fold")
    for name, value in pairs:
        shown.add_row(Text(name), Text(value))
    Console().print(shown)


def accuracy_table(rows: Sequence[Accuracy]) -> None:
    """Show the Keras original, then the engines. Only ``--json`` lists every label flip."""
    columns = ("engine", "top-1", "change", "95% interval", "p", "top-5", "flips", "max error")
    shown = []
    for row in rows:
        against, tested = row.against_keras, row.paired
        change = ["-"] * 3
        if tested is not None:
            low, high = tested.interval_points
            change = [f"{tested.change_points:+.2f}", f"{low:+.2f} to {high:+.2f}"]
            change.append(f"{tested.p_value:.2g}")
        drift = ["-"] * 2
        if against is not None:
            drift = [str(against.label_flips), f"{against.max_abs_error:.1e}"]
        top5 = "-" if row.top5 is None else f"{row.top5:.4f}"
        shown.append([row.engine, f"{row.top1:.4f}", *change, top5, *drift])
    table(f"{rows[0].images} images, against the Keras original", columns, shown)
    say("change: top-1 against Keras, in points; p: McNemar's exact test of no change")
    for row in rows:
        for flip in row.flips[:_FLIPS_SHOWN]:
            say(
                f"{row.engine}: image {flip['image']} (label {flip['label']}) "
                f"went from {flip['keras']} to {flip['artefact']}"
            )
        if len(row.flips) > _FLIPS_SHOWN:
            say(f"{row.engine}: {len(row.flips) - _FLIPS_SHOWN} more flips; --json lists them all")


def passport_lines(passport: dict[str, Any]) -> list[tuple[str, str]]:
    """Return the most useful facts of a passport as (name, value) lines."""
    graph, check, source = passport["graph"], passport["check"], passport["source"]
    ports = [f"{p['name']} {p['shape']} {p['dtype'].lower()}" for p in graph["inputs"]]
    outs = [f"{p['name']} {p['shape']} {p['dtype'].lower()}" for p in graph["outputs"]]
    folded = passport["passes"]["fold_batch_norm"]
    preprocessing = passport["preprocessing"]
    lines = [
        ("source", f"{source['model']} ({source['kind']}, weights: {source['weights']})"),
        ("target", f"{passport['target']}, {passport['precision']}"),
        ("input", ", ".join(ports)),
        ("output", ", ".join(outs)),
        ("preprocessing", preprocessing["name"] if preprocessing else "unknown"),
        ("graph", ", ".join(f"{count} {op}" for op, count in graph["ops"].items())),
        ("parameters", f"{graph['parameters']:,}"),
        ("batch norms folded", str(folded["applied"])),
    ]
    lines += [("  not folded", f"{kept['node']}: {kept['reason']}") for kept in folded["kept"]]
    lines += [
        (
            "FP32 against Keras",
            f"{check['images']} images of {check['data']}: "
            f"{check['label_flips']} label flips, largest logit error "
            f"{check['max_relative_error']:.1e} of the largest logit",
        ),
        (
            "files",
            ", ".join(f"{n} {f['bytes'] / 1e6:.1f} MB" for n, f in passport["files"].items()),
        ),
    ]
    lines[-1:-1] = _keras_lines(check)
    if found := quantization_of(passport):
        lines += _quantized_lines(passport["precision"], found, passport["passes"])
    if fp16 := passport.get("fp16"):
        lines += _fp16_lines(fp16, passport["passes"]["to_fp16"]["kept"])
    engine = passport.get(passport["target"], {})
    if "provider" in engine:
        lines += provider_lines(engine)
    elif "compiled" in engine:
        lines += engine_lines(engine, passport.get("engine"))
    elif executed := engine.get("executed"):
        lines.append(("executed", f"{', '.join(executed['summary'])}; on {executed['cpu']}"))
    accuracy = passport.get("measured", {}).get("accuracy")
    if accuracy:
        shown = f"{accuracy['top1']:.4f} on {accuracy['images']} images"
        if tested := accuracy.get("paired"):
            low, high = tested["interval_points"]
            shown += f", {tested['change_points']:+.2f} points ({low:+.2f} to {high:+.2f})"
        lines.append(("measured top-1", shown))
    return lines


def _keras_lines(check: dict[str, Any]) -> list[tuple[str, str]]:
    """Describe how exact the original is, if the comparison had to know."""
    from exporter.proof import NOISY

    lines = []
    if (error := check.get("keras_error")) is not None:
        shown = f"off by {error:.1e} itself, against {check['reference']}"
        noisy = "; that is much, so labels may flip by rounding alone" if error > NOISY else ""
        lines.append(("  Keras", shown + noisy))
    if own := check.get("own_precision"):
        lines.append(
            (
                "  in its own precision",
                f"{own['label_flips']} label flips, largest logit error "
                f"{own['max_relative_error']:.1e}",
            )
        )
    return lines


def _quantized_lines(
    precision: str, found: dict[str, Any], passes: dict[str, Any]
) -> list[tuple[str, str]]:
    width = "7-bit weights, for CPUs without VNNI" if found["reduce_range"] else "8 bits"
    how = f"{found['calibrator']} on {found['calibration_images']} training images"
    how += " (stopped early because the ranges had settled)" if found.get("stopped_early") else ""
    lines = [(precision, f"scheme {found['scheme']}, {how}, {width}")]
    lines += _budget_lines(precision, found["max_drop"]) if found.get("max_drop") else []
    touched = (f"{name} ({count} nodes)" for name, count in found["recovery"].items())
    lines += [("  recovery", ", ".join(touched))] if found["recovery"] else []
    kept = Counter(each["reason"] for each in passes.get("insert_qdq", {}).get("kept", ()))
    del kept["asked for"]  # the budget lines name these
    lines += [("  stays in float", f"{count}: {reason}") for reason, count in kept.items()]
    return lines + [("  warning", warning) for warning in found["warnings"]]


def _fp16_lines(fp16: dict[str, Any], kept: list[dict[str, str]]) -> list[tuple[str, str]]:
    loss = fp16["simulated_against_untyped"]
    lines = [
        (
            "fp16",
            f"inputs and outputs {fp16['io']}, nodes kept FP32: {len(kept)}; simulated: "
            f"{loss['label_flips']} label flips, largest logit error "
            f"{loss['max_relative_error']:.1e} of the largest logit",
        )
    ]
    lines += [("  kept FP32", f"{each['node']}: {each['reason']}") for each in kept]
    return lines + [("  warning", warning) for warning in fp16["warnings"]]


def _budget_lines(precision: str, budget: dict[str, Any]) -> list[tuple[str, str]]:
    lost, images = budget["lost_images"], budget["images"]
    lines = [
        (
            "  top-1 lost",
            f"{budget['lost_points']:.2f} points ({lost} of {images:,} held-out training images); "
            f"the limit is {budget['points']:g}",
        )
    ]
    for kept in budget["kept"]:
        name, without = kept["keras_layer"] or kept["node"], kept["lost_images_without"]
        lines.append(
            ("  kept in float", f"{name}: {precision.upper()} would lose {without} images")
        )
    return lines


def sensitivity_table(result: Sensitivity) -> None:
    """Show what quantizing each layer alone costs."""
    columns = ("layer", "SQNR dB", "flips", "MMACs", "share")
    rows = [
        (
            row["keras_layer"] or row["node"],
            "-" if row["sqnr_db"] is None else f"{row['sqnr_db']:.1f}",
            str(row["label_flips"]),
            f"{row['macs'] / 1e6:.2f}",
            f"{row['macs_share']:.1%}",
        )
        for row in result.rows().values()
    ]
    title = f"One layer in INT8 at a time: scheme {result.scheme}, {result.images} held-out images"
    table(title, columns, rows)
    for warning in result.warnings:
        say(f"warning: {warning}")


def engine_lines(engine: dict[str, Any], record: dict[str, Any] | None) -> list[tuple[str, str]]:
    """Return lines about a TensorRT engine: how it was built, or how to build it.

    Args:
        engine: the passport's entry under the target's name.
        record: an `exporter.engines.record.EngineRecord` as JSON, or None if nothing was built.
    """
    if record is not None:
        profile = "; ".join(
            f"{name} {' to '.join('x'.join(map(str, shapes[end])) for end in ('min', 'max'))}"
            for name, shapes in record["profile"].items()
        )
        built = f"{record['flavour']} {record['tensorrt']} in {engine['build_seconds']:.1f} s"
        later = " and later" if record["hardware_compatibility"] == "ampere+" else ""
        capabilities = ", ".join(record["compute_capabilities"])
        lines = [
            ("engine", f"{built}, {engine['typing']}; {profile}"),
            ("built for", f"compute capability {capabilities}{later}"),
        ]
        if dla := engine["dla"]:
            on_gpu = ", ".join(dla["on_gpu"]) or "nothing"
            lines.append(("DLA", f"core {record['dla_core']}; on the GPU: {on_gpu}"))
        warnings = engine["warnings"]
    else:
        checked = engine["parser"]
        parser = (
            f"{checked['module']} {checked['version']}" if checked else "no parser on this machine"
        )
        lines = [
            ("not compiled", engine["why"]),
            ("parsed by", parser),
            ("to finish", "copy the folder to the target machine and run: exporter compile FOLDER"),
            ("  or, in the folder", engine["trtexec"]),
        ]
        warnings = checked["warnings"] if checked else []
    lines += [("executed", engine["executed"])] if "executed" in engine else []
    return lines + [("  warning", warning) for warning in warnings]


def provider_lines(engine: dict[str, Any]) -> list[tuple[str, str]]:
    """Return lines about an onnxruntime provider: where nodes run, or how to compile for it.

    Args:
        engine: the passport's entry under the target's name.
    """
    lines = [("provider", engine["provider"])]
    if not engine["compiled"]:
        finish = "copy the folder to the target machine and run: exporter compile FOLDER"
        return [*lines, ("not compiled", engine["why"]), ("to finish", finish)]
    placement = engine["placement"]
    versions = ", ".join(f"{name} {version}" for name, version in engine["versions"].items())
    nodes = (f"{count} on {name}" for name, count in placement["nodes"].items())
    lines += [("compiled on", f"{engine['gpu']}, {versions}"), ("nodes", ", ".join(nodes))]
    return lines + [
        ("  fell back", f"{each['op_type']} {each['node']}: {each['provider']}")
        for each in placement["elsewhere"]
    ]


def zoo_table(rows: Sequence[dict[str, Any]]) -> None:
    """Show the zoo's models."""
    columns = ("model", "block", "depths", "groups", "shipped weights")
    table(
        "Zoo (default: 96x96x1, 10 classes)",
        columns,
        [
            (
                row["name"],
                row["block"],
                "-".join(map(str, row["depths"])),
                str(row["groups"]),
                f"top-1 {row['top1']:.4f}" if row["shipped_weights"] else "-",
            )
            for row in rows
        ],
    )


def show_diagnosis(diagnosis: Diagnosis) -> None:
    """Show what ``doctor`` found."""
    cpu, gpu = diagnosis.cpu, diagnosis.gpu
    sets = cpu.instruction_sets
    found = ", ".join(n for n, here in sets.items() if here) if sets is not None else "unknown"
    facts(
        "This machine",
        [
            ("system", f"{diagnosis.system}, {diagnosis.architecture}"),
            ("python", diagnosis.python),
            ("cpu", f"{cpu.model}, {cpu.usable_cores} usable cores"),
            ("instruction sets", found),
            *(("", line) for line in cpu.consequences),
            ("gpu", ", ".join(device.described for device in gpu.devices) or "none found"),
        ],
    )
    facts("Versions", [(n, v or "not installed") for n, v in diagnosis.versions.items()])
    rows = [
        (status.target, does, "yes" if able.usable else f"no: {able.why_not}", able.install or "-")
        for status in diagnosis.targets
        for does, able in (("export", status.exports), ("compile", status.compiles))
        if able is not None
    ]
    columns = ("target", "step", "works here", "how to install it")
    table("Targets", columns, [tuple(map(escape, row)) for row in rows])  # extras have brackets


def say(text: str, *, markup: bool = True) -> None:
    """Print one line to standard output. Without ``markup``, brackets print as they are."""
    Console().print(text, highlight=False, soft_wrap=True, markup=markup)


def print_json(value: Any) -> None:
    """Print one JSON object to standard output, and nothing else."""
    print(json.dumps(value, indent=1))
