"""Find where the error between two rungs enters: each layer's own noise, and its inherited noise.

Each batch runs three times: through the graph before, through the graph after, and through the
graph after with every layer fed the values that the graph before computed. The third run
separates a layer's own noise from the noise in its inputs. Comparing the two graphs can't do
that, because a ReLU or a pooling makes inherited noise larger or smaller.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise, permutations
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx.helper as oh

from benchmarks.accuracy.measure import cut
from benchmarks.drift.ladder import Ladder, Step
from calibration.sensitivity import sqnr_db
from calibration.tap import tapped
from exporter.errors import WrongUse
from exporter.passes import LAYER_KEY
from exporter.progress import Progress, silent

if TYPE_CHECKING:
    from exporter.network.runner import Feeds
    from exporter.targets.ort import OrtRunner

IMAGES, BATCH = 256, 8  # noise energies settle on few images
ROUNDING = frozenset({"QuantizeLinear", "DequantizeLinear", "Cast"})
MOVING = frozenset(
    {"Transpose", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity", "Pad", "Slice"}
)
_GIVEN = "/given"

Array = npt.NDArray[Any]


@dataclass
class Noise:
    """Energies of signal and error, summed over batches in float64."""

    signal: float = 0.0
    error: float = 0.0

    def add(self, reference: Array, candidate: Array) -> None:
        """Add a batch; both arrays have the same shape."""
        expected = reference.astype(np.float64)
        self.signal += float(np.square(expected).sum())
        self.error += float(np.square(expected - candidate).sum())

    @property
    def ratio(self) -> float:
        """Error divided by signal: 0 without error, infinite if there is only error."""
        if self.error == 0:
            return 0.0
        ratio = self.error / self.signal if self.signal else math.inf
        return math.inf if math.isnan(ratio) else ratio


@dataclass
class Layer:
    """One tensor that both graphs compute.

    Attributes:
        tensor: its name in both graphs.
        op: the op that computes it, in the graph after.
        keras_layer: the Keras layer, if known.
        read: the name that other layers read: after its Q/DQ or FP16 rounding, if any.
        rounding: the rounding nodes in between, by index.
        total: all its noise, against the same tensor of the graph before.
        own: its noise if all its inputs are exact.
        inherited: the largest total noise among its inputs.
    """

    tensor: str
    op: str
    keras_layer: str | None
    read: str
    rounding: tuple[int, ...] = ()
    total: Noise = field(default_factory=Noise)
    own: Noise = field(default_factory=Noise)
    inherited: float = 0.0

    def as_json(self) -> dict[str, Any]:
        """Return noise and SQNR; an SQNR is null if there is no error or it is not finite."""
        found = {"total": self.total.ratio, "own": self.own.ratio, "inherited": self.inherited}
        values: dict[str, Any] = {
            "tensor": self.tensor,
            "op": self.op,
            "keras_layer": self.keras_layer,
        }
        for name, noise in found.items():
            decibels = sqnr_db(noise)
            values[f"{name}_noise"] = noise if math.isfinite(noise) else None
            values[f"{name}_sqnr_db"] = decibels if math.isfinite(decibels) else None
        return values


@dataclass(frozen=True)
class Walk:
    """The layers of two neighboring rungs, in graph order."""

    before: str
    after: str
    images: int
    layers: tuple[Layer, ...]

    @property
    def worst(self) -> Layer:
        """The layer that adds the most noise of its own."""
        return max(self.layers, key=lambda layer: layer.own.ratio)

    def sentence(self) -> str:
        """Name the layer that adds the most noise, in one sentence."""
        worst = self.worst
        if not worst.own.ratio:
            return f"From {self.before} to {self.after} no layer changes anything."
        named = f" (layer {worst.keras_layer!r})" if worst.keras_layer else ""
        return (
            f"From {self.before} to {self.after}, most noise enters at {worst.op} "
            f"{worst.tensor}{named}: {sqnr_db(worst.own.ratio):.1f} dB."
        )

    def as_json(self) -> dict[str, Any]:
        """Return the walk as JSON values; layers are in graph order."""
        return {
            "before": self.before,
            "after": self.after,
            "images": self.images,
            "most_noise": self.worst.as_json(),
            "layers": [layer.as_json() for layer in self.layers],
        }


def walk(ladder: Ladder, rung: str | None = None, *, progress: Progress = silent) -> Walk:
    """Compare the layers of a rung with those of the one before it.

    Args:
        ladder: the measured ladder.
        rung: the later of the two rungs; None: of the rungs that can be tapped, the one that adds
            the most noise to the logits.
        progress: one bar.

    Raises:
        WrongUse: there is no such rung, or one of the two can't be tapped.
    """
    from exporter.targets.ort import OrtRunner

    pairs = _neighbours(ladder)
    if rung is None:
        noises = {each.name: change.noise for each, change in ladder.steps}
        rung = max(pairs, key=lambda name: noises[name])
    if rung not in pairs:
        raise WrongUse(
            f"the layers of rung {rung!r} can't be compared with those of the rung before it",
            hint=f"choose one of: {', '.join(pairs)}",
        )
    first, second = pairs[rung]
    made = ladder.made
    before, after = first.open(made), second.open(made)
    assert isinstance(before, OrtRunner)
    assert isinstance(after, OrtRunner)
    fixed = second.batch(made)
    count = min(IMAGES, ladder.images.count)
    feeds = (ladder.images.feeds(step.layout(made), BATCH, count) for step in (first, second))
    batches = zip(*(_cut_all(each, fixed) for each in feeds), strict=True)
    layers = _Walker(before, after).layers(batches, count, progress)
    return Walk(first.name, second.name, count, tuple(layers))


def _neighbours(ladder: Ladder) -> dict[str, tuple[Step, Step]]:
    """Return the pairs of rungs that onnxruntime runs, by the later one's name: it can tap them."""
    from exporter.targets.ort import OrtRunner

    made = ladder.made
    run = {rung.name for rung in ladder.rungs if rung.accuracy}
    steps = [step for step in ladder.made.steps if step.name in run]
    seen = [step for step in steps if isinstance(step.open(made), OrtRunner)]
    return {b.name: (a, b) for a, b in pairwise(seen)}


def _cut_all(feeds: Iterator[Feeds], batch: int | None) -> Iterator[tuple[Feeds, int]]:
    for feed in feeds:
        yield from cut(feed, batch)


class _Walker:
    """Two graphs, their common layers, and the sessions that compare these."""

    def __init__(self, before: OrtRunner, after: OrtRunner) -> None:
        self._old = onnx.load_model_from_string(before.graph)
        self._new = onnx.load_model_from_string(after.graph)
        self._as_written = (before.as_written, after.as_written)
        self._reads_before = _reads(self._old)
        self._layers = _common(self._old, self._new)
        self._orders: dict[str, tuple[int, ...]] = {}

    def layers(
        self,
        batches: Iterator[tuple[tuple[Feeds, int], tuple[Feeds, int]]],
        count: int,
        progress: Progress,
    ) -> list[Layer]:
        """Run all batches through the three graphs, keeping the outputs of one batch at a time."""
        from exporter.targets.ort import OrtRunner

        reads = list(dict.fromkeys(self._read_before(layer) for layer in self._layers))
        old = tapped(self._old, reads)[0]
        new = tapped(self._new, [layer.read for layer in self._layers])[0]
        done = 0
        with contextlib.ExitStack() as stack:
            exact, noisy = (
                stack.enter_context(OrtRunner(graph, as_written=as_written))
                for graph, as_written in zip((old, new), self._as_written, strict=True)
            )
            alone: OrtRunner | None = None
            for (feed, real), (feed_after, _) in batches:
                expected, got = exact.infer(feed), noisy.infer(feed_after)
                if alone is None:
                    self._align(expected, got)
                    graph = self._spliced(got)
                    alone = OrtRunner(graph, as_written=self._as_written[1])
                    stack.enter_context(alone)
                given = {layer.tensor: self._aligned(layer, expected) for layer in self._layers}
                own = alone.infer(feed_after | {n + _GIVEN: x for n, x in given.items()})
                for layer in self._layers:
                    reference = given[layer.tensor][:real]
                    layer.total.add(reference, got[layer.read][:real])
                    layer.own.add(reference, own[layer.read][:real])
                done += real
                progress("layers", done, count)
        self._inherit()
        return self._layers

    def _read_before(self, layer: Layer) -> str:
        return self._reads_before[layer.tensor][0]

    def _align(self, expected: Feeds, got: Feeds) -> None:
        """Find the axis order of each tensor in the graph after; drop tensors of other shapes."""
        for layer in self._layers:
            order = _order(expected[self._read_before(layer)], got[layer.read])
            if order is not None:
                self._orders[layer.tensor] = order
        self._layers = [layer for layer in self._layers if layer.tensor in self._orders]

    def _aligned(self, layer: Layer, expected: Feeds) -> Array:
        array = expected[self._read_before(layer)].transpose(self._orders[layer.tensor])
        return np.ascontiguousarray(array)

    def _spliced(self, got: Feeds) -> bytes:
        """Return the graph after, but with every layer reading new graph inputs.

        If the graph before rounds a tensor too, the new input goes through the same rounding
        again. That changes no value, and the runtime can fuse as it does in the whole graph.
        """
        model = onnx.ModelProto()
        model.CopyFrom(self._new)
        graph = model.graph
        replaced: dict[str, str] = {}
        copies: list[onnx.NodeProto] = []
        for layer in self._layers:
            given = layer.tensor + _GIVEN
            shape = [None] * got[layer.read].ndim
            graph.input.append(oh.make_tensor_value_info(given, onnx.TensorProto.FLOAT, shape))
            replaced[layer.read] = given
            if layer.rounding and self._reads_before[layer.tensor][1]:
                added = [_copied(self._new.graph.node[index]) for index in layer.rounding]
                added[0].input[0] = given
                replaced[layer.read] = added[-1].output[0]
                copies += added
        for node in graph.node:
            for index, name in enumerate(node.input):
                node.input[index] = replaced.get(name, name)
        nodes = [*copies, *graph.node]
        del graph.node[:]
        graph.node.extend(nodes)
        return tapped(model, [layer.read for layer in self._layers])[0]

    def _inherit(self) -> None:
        """Give each layer the largest noise among the layers that it reads."""
        by_read = {layer.read: layer for layer in self._layers}
        producers = {name: node for node in self._new.graph.node for name in node.output}
        for layer in self._layers:
            found = _sources(layer, by_read, producers)
            layer.inherited = max((each.total.ratio for each in found), default=0.0)


def _copied(node: onnx.NodeProto) -> onnx.NodeProto:
    """Copy a rounding node, with new names for its data input and output."""
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    copy.name += _GIVEN
    copy.input[0] += _GIVEN
    copy.output[0] += _GIVEN
    return copy


def _sources(
    layer: Layer, by_read: dict[str, Layer], producers: dict[str, onnx.NodeProto]
) -> list[Layer]:
    """Walk back from a layer to the layers before it."""
    found: list[Layer] = []
    seen: set[str] = set()
    waiting = list(producers[layer.read].input)
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        if name in by_read:
            found.append(by_read[name])
        elif name in producers:
            waiting += producers[name].input
    return found


def _reads(model: onnx.ModelProto) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Return by tensor the name that others read, and the indices of the rounding in between."""
    rounding: dict[str, int] = {}
    for index, node in enumerate(model.graph.node):
        if node.op_type in ROUNDING:
            rounding.setdefault(node.input[0], index)
    reads = {}
    for node in model.graph.node:
        for tensor in node.output:
            name = tensor
            through: list[int] = []
            while name in rounding:
                through.append(rounding[name])
                name = model.graph.node[rounding[name]].output[0]
            reads[tensor] = (name, tuple(through))
    return reads


def _common(old: onnx.ModelProto, new: onnx.ModelProto) -> list[Layer]:
    """Return the computed tensors with the same name in both graphs, in the later one's order."""
    reads, there = _reads(new), _computed(old)
    producers = {name: node for node in new.graph.node for name in node.output}
    outputs = {value.name for value in new.graph.output}
    layers: list[Layer] = []
    computed = _computed(new)
    for node in new.graph.node:
        tensor = node.output[0]
        if tensor not in there or tensor not in computed:
            continue
        if node.op_type in ROUNDING | MOVING and tensor not in outputs:
            continue
        while node.op_type in ROUNDING and node.input[0] in producers:
            node = producers[node.input[0]]  # a rounded output is named after the rounding
        read, rounding = reads[tensor]
        if any(layer.read == read for layer in layers):
            continue
        metadata = {entry.key: entry.value for entry in node.metadata_props}
        layers.append(Layer(tensor, node.op_type, metadata.get(LAYER_KEY), read, rounding))
    return layers


def _computed(model: onnx.ModelProto) -> set[str]:
    """Return the tensors that depend on the graph's inputs."""
    constants = {value.name for value in model.graph.initializer}
    moving = {value.name for value in model.graph.input} - constants
    found: set[str] = set()
    for node in model.graph.node:
        if (found | moving).intersection(node.input):
            found.update(node.output)
    return found


def _order(expected: Array, got: Array) -> tuple[int, ...] | None:
    """Return the order of axes that gives one tensor the other's shape; None if there is none."""
    if not (np.issubdtype(expected.dtype, np.floating) and expected.ndim == got.ndim):
        return None
    fits = [
        order
        for order in permutations(range(expected.ndim))
        if expected.transpose(order).shape == got.shape and order[:1] == (0,)
    ]
    if len(fits) < 2:
        return fits[0] if fits else None
    # With equal sides, several orders fit, but only the right one leaves just noise.
    return min(fits, key=lambda order: float(np.square(expected.transpose(order) - got).sum()))
