"""Try any choice of quantized layers on one calibrated graph, run as its target would run it."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from calibration.tap import tapped
from exporter.data.held_out import HeldOut
from exporter.passes import LAYER_KEY, PassReport
from exporter.passes.constants import label
from exporter.passes.insert_qdq import InsertQdq
from exporter.passes.linear import Linear
from exporter.passes.placement import LINEAR_OPS, place
from exporter.passes.restore_weights import RestoreWeights
from exporter.passes.schemes import Scheme

if TYPE_CHECKING:
    from exporter.network.runner import Feeds

Logits = npt.NDArray[Any]


@dataclass(frozen=True)
class Trials:
    """A float graph, and everything that is needed to quantize a part of it.

    Attributes:
        model: folded and prepared, float32. Trials run on copies of it.
        scheme: where Q/DQ go.
        ranges: (low, high) of the activations, by tensor.
        original: `model` before recovery fitted its constants to integers.
    """

    model: ir.Model
    scheme: Scheme
    ranges: Mapping[str, tuple[float, float]]
    original: ir.Model

    @cached_property
    def layers(self) -> dict[str, Linear]:
        """The linear nodes that the scheme quantizes, by name and in graph order."""
        return {label(row.node): row for row in place(self.model, self.scheme).linears}

    @cached_property
    def keras_layers(self) -> dict[str, str]:
        """The Keras layer behind each of `layers`, if it is known."""
        found = {name: row.node.metadata_props.get(LAYER_KEY) for name, row in self.layers.items()}
        return {name: layer for name, layer in found.items() if layer}

    def macs(self, images: HeldOut) -> dict[str, int]:
        """Count the multiply-adds per image in each of `layers`, from the shapes of one run.

        Each weight is used once per position of the output; for a ConvTranspose, of the input.
        """
        sized = {
            name: row.node.inputs[0] if row.node.op_type == "ConvTranspose" else row.node.outputs[0]
            for name, row in self.layers.items()
        }
        values = {name: str(value and value.name) for name, value in sized.items()}
        graph, names = tapped(self.model, list(dict.fromkeys(values.values())))
        shapes = {name: array.shape for name, array in next(images.first(1).feeds()).items()}
        if names:
            (found,) = _run(graph, images.first(1), as_written=True)
            shapes |= {name: array.shape for name, array in found.items()}
        return {
            name: multiply_adds(row.node, shapes[values[name]]) for name, row in self.layers.items()
        }

    def float_logits(self, images: HeldOut) -> Logits:
        """Return the logits of the float graph, (images, classes)."""
        return self._logits(self.original, images)

    @property
    def before_recovery(self) -> Trials:
        """The same without recovery, which corrects a layer for the errors of others too."""
        return replace(self, model=self.original)

    def quantize(self, model: ir.Model, keep: Collection[str]) -> tuple[PassReport, PassReport]:
        """Quantize `model` or a copy of it, in place, except the nodes to keep in float.

        Returns:
            The reports on which nodes got their weights back, and which got Q/DQ.
        """
        restore = RestoreWeights(self.original, keep)
        restore(model)
        insert = InsertQdq(self.scheme, self.ranges, keep=keep)
        insert(model)
        return restore.report, insert.report

    def logits(self, keep: Collection[str], images: HeldOut) -> Logits:
        """Return the logits with the named nodes in float, (images, classes)."""
        model = self.model.clone()
        self.quantize(model, keep)
        return self._logits(model, images)

    def logits_alone(self, layer: str, images: HeldOut) -> Logits:
        """Return the logits with only one layer quantized, (images, classes)."""
        nodes = (label(node) for node in self.model.graph if node.domain == "")
        return self.logits({name for name in nodes if name != layer}, images)

    def with_followers(self, layers: Collection[str]) -> set[str]:
        """Add the nodes that lie only between these float layers, such as pooling and additions.

        Integers there would cost two conversions and some precision, and save nothing.
        """
        return {*layers} | {
            label(node)
            for node in self.model.graph
            if node.domain == ""
            and node.op_type in self.scheme.inputs - LINEAR_OPS
            and (around := _linear_neighbours(node, self.scheme))
            and around <= {*layers}
        }

    def _logits(self, model: ir.Model, images: HeldOut) -> Logits:
        graph = ir.to_proto(model).SerializeToString()
        (output,) = (str(value.name) for value in model.graph.outputs)
        # onnxruntime does not fuse symmetric Q/DQ: they are simulated, as for target onnx.
        batches = _run(graph, images, as_written=self.scheme.symmetric)
        return np.concatenate([batch[output] for batch in batches])


def _run(graph: bytes, images: HeldOut, *, as_written: bool) -> Iterator[Feeds]:
    from exporter.targets.ort import OrtRunner

    with OrtRunner(graph, as_written=as_written) as runner:
        for feeds in images.feeds():
            yield runner.infer(feeds)


def multiply_adds(node: ir.Node, shape: Sequence[int]) -> int:
    """Count the multiply-adds per image in a linear node.

    Args:
        node: a Conv, ConvTranspose, Gemm or MatMul whose weight has a known shape.
        shape: the shape of its output; for a ConvTranspose, of its input. The batch comes first.
    """
    weight = node.inputs[1]
    assert weight is not None
    assert weight.shape is not None
    places = shape[1:-1] if node.op_type in ("Gemm", "MatMul") else shape[2:]
    return int(np.prod(weight.shape.numpy()) * np.prod(places))


def _linear_neighbours(node: ir.Node, scheme: Scheme) -> set[str]:
    """Return the linear nodes on both sides of a node, past nodes without Q/DQ of their own."""
    found: set[str] = set()
    for backward in (True, False):
        queue, seen = [node], {node}
        while queue:
            for other in _next(queue.pop(), backward):
                if other in seen:
                    continue
                seen.add(other)
                if other.op_type in LINEAR_OPS:
                    found.add(label(other))
                elif other.op_type not in scheme.inputs:
                    queue.append(other)
    return found


def _next(node: ir.Node, backward: bool) -> Iterator[ir.Node]:
    if backward:
        producers = (value.producer() for value in node.inputs if value is not None)
        yield from (producer for producer in producers if producer is not None)
    else:
        for value in node.outputs:
            yield from value.consumers()
