"""From the proven float32 graph to the precision asked for: FP16; INT8 or FP8, alone or amid it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx_ir as ir

from exporter.artifact import serialize
from exporter.data.feeds import in_layout

if TYPE_CHECKING:
    from collections.abc import Sequence

    from exporter.config import ExportConfig
    from exporter.network.runner import Feeds
    from exporter.network.sources import Source
    from exporter.passes import PassReport
    from exporter.precision.quantize import Quantization
    from exporter.progress import Progress
    from exporter.targets import Target


@dataclass(frozen=True)
class Typed:
    """A graph in its final types.

    Attributes:
        data: it, checked and serialized; None where it stayed float32.
        reports: of the passes that typed it.
        fields: what the passport records of it.
        quantization: of INT8 or FP8.
    """

    data: bytes | None = None
    reports: list[PassReport] = field(default_factory=list)
    fields: dict[str, Any] = field(default_factory=dict)
    quantization: Quantization | None = None

    def save(self, folder: Path) -> None:
        """Write what belongs beside the graph."""
        if self.quantization is not None:
            from exporter.precision import quantize

            quantize.save_calibration(self.quantization, folder)


def apply(
    model: ir.Model,
    source: Source,
    config: ExportConfig,
    target: Target,
    batches: Sequence[Feeds],
    progress: Progress,
) -> Typed:
    """Type a graph in place.

    Args:
        model: folded, float32, proven equal to its source.
        source: the network it came from.
        config: what was asked for.
        target: its row says where Q/DQ go and what is around them, unless ``config`` does.
        batches: of inputs, to compare FP16 on.
        progress: told of the images it is measured on.

    Raises:
        As `exporter.precision.quantize.quantize` and `exporter.precision.half.to_half`.
    """
    to_half = target.types_half(config)
    done = Typed()
    if config.is_quantized:
        from exporter.precision import quantize
        from exporter.targets.quantized import scheme_of

        scheme = scheme_of(config, target.scheme).name
        ready = quantize.calibrated(model, source, config, scheme, progress)
    if to_half:
        from exporter.precision import half

        measured = half.measure(model, source, config, progress)  # what recovery left of it
    if config.is_quantized:
        quantization = quantize.finish(ready, source, config, progress)
        fields: dict[str, Any] = {config.precision: quantization.as_json()}
        done = Typed(serialize.checked_bytes(model), quantization.reports, fields, quantization)
    if to_half:
        before = done.data or serialize.checked_bytes(model)
        halving = half.to_half(model, measured, config.io)
        data = serialize.checked_bytes(model)
        given = [in_layout(batch, config.layout) for batch in batches]
        lost = half.compare_simulated(before, data, given)
        fields = {"fp16": {**halving.as_json(), "simulated_against_untyped": lost.as_json()}}
        done = Typed(data, done.reports + halving.reports, done.fields | fields, done.quantization)
    return done
