"""Turn named tensors inside a graph into its outputs, so that they can be read.

A runtime may not optimize a graph output away, so full optimization stays safe: a fusion that
would remove a tapped tensor does not fire, and all others do.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir

from calibration.errors import NoData, WrongRequest


class Session(Protocol):
    """The interface that onnxruntime's ``InferenceSession`` and ``ReferenceEvaluator`` share."""

    def run(self, output_names: Any, input_feed: Any, /) -> Sequence[Any]:
        """Return the named outputs of one batch, in that order."""


OpenSession = Callable[[bytes], Session]
Feeds = dict[str, npt.NDArray[Any]]
Model = bytes | onnx.ModelProto | ir.Model


def tapped(model: Model, tensors: Sequence[str]) -> tuple[bytes, list[str]]:
    """Return the graph with the tensors as its only outputs, and the output names.

    The names leave out graph inputs, since the caller already has their values.

    Args:
        model: not changed.
        tensors: names of graph inputs or of node outputs in the main graph.

    Raises:
        WrongRequest: there are no tensors, one is named twice, or the graph does not compute one.
    """
    proto = onnx.ModelProto()
    proto.CopyFrom(_to_proto(model))
    graph = proto.graph
    inputs = {value.name for value in graph.input} - {value.name for value in graph.initializer}
    computed = {name for node in graph.node for name in node.output if name}
    _refuse_unknown(tensors, inputs | computed)
    names = [name for name in tensors if name not in inputs]
    typed = {value.name: value for value in (*graph.value_info, *graph.output)}
    outputs = [typed.get(name, onnx.ValueInfoProto(name=name)) for name in names]
    kept = [onnx.ValueInfoProto.FromString(value.SerializeToString()) for value in outputs]
    if kept:
        del graph.output[:]
        graph.output.extend(kept)
    return proto.SerializeToString(), names


def stream(
    model: Model, tensors: Sequence[str], batches: Iterable[Feeds], open_session: OpenSession
) -> Iterator[tuple[int, int, Feeds]]:
    """Yield for each batch (images before it, images in it, tensors by name).

    Args:
        model: not changed.
        tensors: names of graph inputs or computed tensors.
        batches: feeds by input name, images along the first axis; all are used.
        open_session: makes a session from a serialized graph; called once.

    Raises:
        NoData: there was no batch.
        WrongRequest: as `tapped`.
    """
    graph, names = tapped(model, tensors)
    session = open_session(graph)
    done = 0
    for feeds in batches:
        size = len(next(iter(feeds.values())))
        # A runtime takes an empty list for "all outputs".
        got = session.run(names, feeds) if names else []
        yield done, size, feeds | dict(zip(names, map(np.asarray, got), strict=True))
        done += size
    if not done:
        raise NoData("there are no calibration images", hint="calibrate on real training images")


def _to_proto(model: Model) -> onnx.ModelProto:
    if isinstance(model, bytes):
        return onnx.load_model_from_string(model)
    return ir.to_proto(model) if isinstance(model, ir.Model) else model


def _refuse_unknown(tensors: Sequence[str], known: set[str]) -> None:
    if not tensors:
        raise WrongRequest("there are no tensors to calibrate")
    if len(set(tensors)) < len(tensors):
        raise WrongRequest("a tensor is listed twice")
    for name in tensors:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=3)
            hint = f"did you mean: {', '.join(near)}?" if near else None
            raise WrongRequest(f"the graph computes no tensor {name!r}", hint=hint)
