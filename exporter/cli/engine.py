"""Show an engine in the terminal: its fusion audit, and whether it loads on a machine.

Names may come from untrusted files, so all of them are escaped. rich would otherwise interpret
brackets in them as markup.
"""

from __future__ import annotations

from collections.abc import Sequence

from rich.markup import escape

from exporter.cli import console
from exporter.engines.audit import NOT_TOLD, Audit
from exporter.engines.compatibility import Fit

_SLOWEST_SHOWN = 10


def show_audit(audit: Audit) -> None:
    """Show convolutions, adds, reformats and times as tables, then the verdict."""
    _table(
        "Convolutions",
        ("layer", "runs in", "weights", "in", "out", "groups", "ms"),
        [
            (
                row.layer,
                row.precision,
                row.weights or "-",
                "+".join(row.inputs),
                "+".join(row.outputs),
                str(row.groups or "-"),
                _ms(row.time_ms),
            )
            for row in audit.convolutions
        ],
    )
    _table(
        "Residual adds",
        ("add", "in INT8", "why not", "shortcut", "made by", "ms"),
        [
            (
                row.node or row.layer,
                "unknown" if row.reason == NOT_TOLD else "no" if row.left_int8 else "yes",
                row.reason or "-",
                ", ".join(f"{one.tensor} {one.precision}" for one in row.without_qdq) or "-",
                ", ".join(one.made_by or "an input" for one in row.without_qdq) or "-",
                _ms(row.time_ms),
            )
            for row in audit.adds
        ],
    )
    _table(
        "Reformats",
        ("layer", "from", "to", "why", "ms"),
        [
            (
                row.layer,
                row.source,
                row.result,
                "Q or DQ" if row.asked else "the engine's own",
                _ms(row.time_ms),
            )
            for row in audit.reformats
        ],
    )
    split = [(row.node, ", ".join(row.layers), row.reason) for row in audit.split]
    _table("Split grouped convolutions", ("node", "layers", "how"), split)
    _table("Compiled regions, whose layers are not listed", ("layer",), _rows(audit.opaque))
    _show_times(audit)
    counts = ", ".join(f"{count} {name}" for name, count in audit.precisions().items())
    left = sum(row.left_int8 for row in audit.adds)
    console.say(f"{audit.layers} layers; convolutions: {counts or 'none'}")
    untold = sum(row.reason == NOT_TOLD for row in audit.adds)
    also = f", {untold} unknown" if untold else ""
    console.say(f"{len(audit.adds)} residual adds, {left} of them outside INT8{also}")
    objections = audit.objections()
    console.say(
        "INT8 throughout" if not objections else f"not all INT8: {len(objections)} objections"
    )


def _show_times(audit: Audit) -> None:
    if not audit.times:
        return
    total = sum(time_ms for _, _, time_ms in audit.times)
    by_kind: dict[str, float] = {}
    for _, kind, time_ms in audit.times:
        by_kind[kind] = by_kind.get(kind, 0.0) + time_ms
    slowest = [
        (name, kind, _ms(time_ms), _share(time_ms, total))
        for name, kind, time_ms in audit.times[:_SLOWEST_SHOWN]
    ]
    _table("Slowest layers", ("layer", "kind", "ms", "share"), slowest)
    kinds = sorted(by_kind.items(), key=lambda row: -row[1])
    rows = [(kind, _ms(time_ms), _share(time_ms, total)) for kind, time_ms in kinds]
    _table(f"Time by kind of layer, {total:.4f} ms in total", ("kind", "ms", "share"), rows)


def show_fit(title: str, fit: Fit) -> None:
    """Show the verdict, then each rule with NVIDIA's text and its source."""
    machine = fit.machine
    console.facts(
        title,
        [
            ("engine", _engine(fit)),
            ("machine", f"{machine.name}: {machine.gpu or 'no GPU'}"),
            ("compute capability", machine.compute_capability or "unknown"),
            ("TensorRT on it", machine.tensorrt or "unknown"),
            ("verdict", fit.verdict),
            *(("unverified", f"{field} of this machine") for field in machine.unverified),
            *(("source", source) for source in machine.sources),
        ],
    )
    for finding in fit.findings:
        mark = "" if finding.verified else " (unverified)"
        console.say(f"{finding.outcome:8}{finding.rule}: {finding.detail}", markup=False)
        console.say(f'        "{finding.quote}"{mark}', markup=False)
        console.say(f"        {finding.source}", markup=False)


def _engine(fit: Fit) -> str:
    engine = fit.engine
    name = "TensorRT" if engine.flavour == "tensorrt" else "TensorRT-RTX"
    built = f"{name} {engine.tensorrt}, compute capability {', '.join(engine.compute_capabilities)}"
    built += f", hardware compatibility {engine.hardware_compatibility}"
    built += ", version-compatible" if engine.version_compatible else ""
    built += f", DLA core {engine.dla_core}" if engine.dla_core is not None else ""
    return f"{built}, {engine.os} {engine.arch}"


def _table(title: str, columns: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> None:
    if rows:
        console.table(title, columns, [tuple(escape(cell) for cell in row) for row in rows])


def _rows(names: tuple[str, ...]) -> list[tuple[str, ...]]:
    return [(name,) for name in names]


def _ms(time_ms: float | None) -> str:
    return "-" if time_ms is None else f"{time_ms:.4f}"


def _share(time_ms: float, total: float) -> str:
    return f"{time_ms / total:.1%}" if total else "-"
