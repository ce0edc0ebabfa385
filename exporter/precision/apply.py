"""From the proven float32 graph to the precision asked for: FP16, INT8, FP8, or two of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from exporter.artifact import serialize
from exporter.data.feeds import in_layout

if TYPE_CHECKING:
    from collections.abc import Sequence

    import onnx_ir as ir

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
        data: the graph, checked and serialized. None if it stayed float32.
        reports: of the passes that changed its types.
        fields: what the passport records about it.
        quantization: the calibration and more, for INT8 and FP8.
    """

    data: bytes | None = None
    reports: list[PassReport] = field(default_factory=list)
    fields: dict[str, Any] = field(default_factory=dict)
    quantization: Quantization | None = None

    def save(self, folder: Path) -> None:
        """Write the files that belong beside the graph."""
        if self.quantization is not None:
            self.quantization.save(folder)


def apply(
    model: ir.Model,
    source: Source,
    config: ExportConfig,
    target: Target,
    batches: Sequence[Feeds],
    progress: Progress,
) -> Typed:
    """Give a graph its final types, in place.

    Args:
        model: the graph: folded, float32, and proven equal to its source.
        source: the network that it came from.
        config: the request.
        target: its row says where Q/DQ go and which type is around them, unless ``config`` does.
        batches: inputs to compare FP16 on.
        progress: called for each batch of images that is measured.

    Raises:
        As `exporter.precision.quantize.quantize` and `exporter.precision.half.to_half`.
    """
    typed, measured_on = Typed(), model
    if config.is_quantized:
        from exporter.precision.quantize import quantize
        from exporter.targets.quantized import scheme_of

        scheme = scheme_of(config, target.scheme).name
        done = quantize(model, source, config, scheme, progress)
        fields: dict[str, Any] = {config.precision: done.as_json()}
        typed = Typed(serialize.checked_bytes(model), done.reports, fields, done)
        measured_on = done.measured_on
    if not target.types_half(config):
        return typed

    from exporter.precision import half

    before = typed.data or serialize.checked_bytes(model)
    measured = half.measure(measured_on, source, config, progress)
    halving = half.to_half(model, measured, config.io)
    data = serialize.checked_bytes(model)
    given = [in_layout(batch, config.layout) for batch in batches]
    lost = half.compare_simulated(before, data, given)
    fields = {"fp16": {**halving.as_json(), "simulated_against_untyped": lost.as_json()}}
    return Typed(data, typed.reports + halving.reports, typed.fields | fields, typed.quantization)
