"""An artifact's description of itself: its source, what was done to it, how it was checked."""

from __future__ import annotations

import datetime
import platform
from collections import Counter
from dataclasses import asdict
from typing import Any

import onnx_ir as ir

from exporter.config import ExportConfig
from exporter.machine.versions import installed_versions
from exporter.models.preprocessing import GIVEN, describe
from exporter.network.sizes import usual_shape
from exporter.network.sources import Source, weights_sha256
from exporter.passes import PassReport


def describe_export(
    config: ExportConfig,
    source: Source,
    model: ir.Model,
    reports: list[PassReport],
    check: dict[str, Any],
) -> dict[str, Any]:
    """Collect all of the passport's fields except the hashes of the files."""
    return {
        "created": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "source": {
            "model": source.name,
            "kind": source.kind,
            "weights": source.weights,
            "sha256": source.sha256,
            **({"weights_sha256": weights_sha256(source.model)} if source.is_keras else {}),
            **({"input_size": str(config.input_size)} if config.input_size else {}),
            **({"imports": list(config.trust.imports)} if config.trust.imports else {}),
        },
        "target": config.target,
        "precision": config.precision,
        "layout": config.layout,
        "batch": _batch(config, source),
        "preprocessing": _preprocessing(source, config),
        "classes": list(source.classes),
        "graph": describe_graph(model),
        "passes": {
            report.name: {
                "applied": len(report.applied),
                "kept": [{"node": kept.node, "reason": kept.reason} for kept in report.kept],
            }
            for report in reports
        },
        "check": check,
        "versions": versions(),
    }


def describe_graph(model: ir.Model) -> dict[str, Any]:
    """Describe a graph: ops, parameters, inputs and outputs, opset."""
    graph = model.graph
    return {
        "opset": model.opset_imports[""],
        "inputs": [_port(value) for value in graph.inputs],
        "outputs": [_port(value) for value in graph.outputs],
        "ops": dict(Counter(node.op_type for node in graph).most_common()),
        "parameters": sum(
            value.const_value.size for value in graph.initializers.values() if value.const_value
        ),
    }


def versions() -> dict[str, str]:
    """Return the installed versions of all packages that touch a graph, without importing them."""
    found = {name: version for name, version in installed_versions().items() if version is not None}
    return {"python": platform.python_version(), **found}


def _port(value: ir.Value) -> dict[str, Any]:
    shape = (
        [] if value.shape is None else [d if isinstance(d, int) else str(d) for d in value.shape]
    )
    return {"name": value.name, "shape": shape, "dtype": str(value.dtype)}


def _batch(config: ExportConfig, source: Source) -> dict[str, int | None]:
    """Return the accepted batch sizes. ``max`` is None if any size is accepted."""
    if source.batch is not None:
        return {"min": source.batch, "opt": source.batch, "max": source.batch}
    batch = config.batch
    return {"min": batch.minimum, "opt": batch.usual, "max": batch.maximum}


def _preprocessing(source: Source, config: ExportConfig) -> dict[str, Any] | None:
    port = source.inputs[0]
    if source.preprocessing == GIVEN:
        function = getattr(config.data, "function", None)
        return describe(GIVEN, ()) | ({"function": asdict(function)} if function else {})
    if source.preprocessing is None or len(port.shape) != 4:
        return None
    height, width, _ = usual_shape(source, port)
    return describe(source.preprocessing, (height, width))
