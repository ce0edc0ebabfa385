"""Prove that a graph is the network it was made from: run both on the same inputs.

Two right programs differ by rounding. How much depends on the network, so we measure it: the error
of Keras itself against the same network in float64. A graph may be a few times as wrong as Keras.

Measured on 14 networks of ``keras.applications`` with realistic batch norms: the error of our graph
is 0.2 to 1.3 times that of Keras. A wrong graph (two channels of a kernel swapped, padding on the
other side, every epsilon off by 10%) is off by 147 to 300,000 times as much.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from exporter.data.feeds import in_layout
from exporter.errors import ConversionError
from exporter.network.agreement import TOLERANCE, Agreement, Logits, compare
from exporter.network.twin import computes_in_half, float32_of, twin_of

if TYPE_CHECKING:
    from exporter.config import Layout
    from exporter.network.runner import Feeds, Runner
    from exporter.network.sources import Source

ROUNDING = 1e-5
"""An error of the largest logit up to this needs no explanation."""
TIMES_KERAS = 4
"""How many times Keras' own error a graph may be off."""
NOISY = 1e-3
"""Above this error of Keras itself, the inputs tell too little, and we say so."""
_ENGINE_ROUNDING = 0.05
_MOST_IMAGES = 16  # that run in float64, the worst ones

TOO_NOISY = 1e-2
"""Above this error of Keras itself, a comparison proves nothing."""
Reference = Literal["float64", "other batch sizes"]
FLOAT64: Reference = "float64"
BATCH_SIZES: Reference = "other batch sizes"


@dataclass(frozen=True)
class Proof:
    """The outcome of a comparison.

    Attributes:
        agreement: of the graph with Keras in float32, for the worst output.
        keras_error: of Keras itself, relative to the largest logit. None if the graph was so close
            that nobody asked.
        reference: what Keras was compared with to find it.
        own_precision: agreement with the original in its own precision, if that is half.
    """

    agreement: Agreement
    keras_error: float | None = None
    reference: Reference | None = None
    own_precision: Agreement | None = None

    def as_json(self) -> dict[str, Any]:
        """Return the passport's entry."""
        found = self.agreement.as_json()
        if self.keras_error is not None:
            found |= {"keras_error": self.keras_error, "reference": self.reference}
        if self.own_precision is not None:
            found["own_precision"] = self.own_precision.as_json()
        return found


def prove_equal(source: Source, data: bytes, batches: list[Feeds], layout: Layout) -> Proof:
    """Run a graph and its original on the same inputs.

    Args:
        source: the original.
        data: the graph, as ONNX.
        batches: inputs of the network, NHWC. All batches have one size.
        layout: of the graph's images.

    Raises:
        ConversionError: they differ by more than rounding explains, or an output is not finite.
    """
    from exporter.network.runner import KerasRunner
    from exporter.targets.ort import OrtRunner

    exact = float32_of(source)
    with KerasRunner(exact) as keras, OrtRunner(data) as runtime:
        expected = _joined([keras.infer(feeds) for feeds in batches])
        got = _joined([runtime.infer(in_layout(feeds, layout)) for feeds in batches])
        _refuse_not_finite(source, expected)
        agreement = _worst(expected, got)
        proof = Proof(agreement)
        if not agreement.max_relative_error <= ROUNDING:
            part = _most_different(exact.batch, Part(_joined(batches), expected, got))
            proof = _against_reference(exact, agreement, keras, part)
    if computes_in_half(source):
        with KerasRunner(source) as half:
            own = _joined([half.infer(feeds) for feeds in batches])
        proof = replace(proof, own_precision=_worst(own, got))
    return proof


def prove_engine(engine: Runner, written: bytes, plain: bytes, feeds: Feeds, target: str) -> None:
    """Refuse an INT8 engine that computes something else than its graph.

    OpenVINO 2026.4 is off by a third of the largest logit on a small vision transformer, and says
    nothing. Right engines round in other places than the graph as written, so they may be off from
    float32 by a few times as much.

    Args:
        engine: it is open.
        written: the graph that it was compiled from, which is run exactly as it is written.
        plain: the same network in float32.
        feeds: one batch, in the layout of the graphs.
        target: its name, for the message.

    Raises:
        ConversionError: the engine is off by more.
    """
    from exporter.targets.ort import OrtRunner

    with OrtRunner(plain) as exact, OrtRunner(written, as_written=True) as simulated:
        expected = exact.infer(feeds)
        allowed = max(_ENGINE_ROUNDING, TIMES_KERAS * _error(expected, simulated.infer(feeds)))
    error = _error(expected, engine.infer(feeds))
    if not error <= allowed:
        raise ConversionError(
            f"{target} computes this INT8 graph wrong: its logits are off by {error:.0%} of the "
            f"largest, where {allowed:.0%} is allowed",
            hint="the graph itself is right: use another target (--to ort), or --precision fp32",
        )


def _against_reference(exact: Source, agreement: Agreement, keras: Runner, part: Part) -> Proof:
    """Compare graph and Keras with a reference, on the inputs where they differ most.

    Raises:
        ConversionError: the graph is too far from the reference, or Keras is.
    """
    reference = _in_float64(exact, part.feeds)
    if reference is not None:
        keras_error = _error(reference, part.expected)
        error, least, named = _error(reference, part.got), ROUNDING, FLOAT64
    else:
        other = part.expected if exact.batch else _one_by_one(keras, part.feeds)
        keras_error = _error(part.expected, other)
        error, least, named = _error(part.expected, part.got), TOLERANCE, BATCH_SIZES
    allowed = max(least, TIMES_KERAS * keras_error)
    if not keras_error <= TOO_NOISY:
        raise ConversionError(
            f"Keras itself is off by {keras_error:.1e} of the largest logit of {exact.name} on "
            "these inputs, so a comparison proves nothing",
            hint="compare on real inputs: give some with --data",
        )
    if not error <= allowed:
        certain = error > 10 * allowed and named == FLOAT64
        raise ConversionError(
            f"the graph is not the same network as {exact.name}: its logits are off by "
            f"{error:.1e} of the largest, where {allowed:.0e} is allowed "
            f"(Keras itself is off by {keras_error:.0e})",
            hint="please report this with the model; nothing was written"
            if certain
            else "compare on real inputs: give some with --data; nothing was written",
        )
    return Proof(agreement, keras_error, named)


def _in_float64(exact: Source, feeds: Feeds) -> Feeds | None:
    """Run the network in float64; None if it can't be made again in another type."""
    try:
        twin = twin_of(exact, "float64")
        outputs = twin.call(tuple(feeds[port.name] for port in exact.inputs))
    except Exception:  # the network's own classes may raise anything, and may need float32
        return None
    return {port.name: np.asarray(x) for port, x in zip(exact.outputs, outputs, strict=True)}


def _one_by_one(keras: Runner, feeds: Feeds) -> Feeds:
    count = len(next(iter(feeds.values())))
    rows = [keras.infer({name: x[i : i + 1] for name, x in feeds.items()}) for i in range(count)]
    return _joined(rows)


@dataclass(frozen=True)
class Part:
    """Some of the inputs, with the outputs of Keras and of the graph."""

    feeds: Feeds
    expected: Feeds
    got: Feeds


def _most_different(batch: int | None, whole: Part) -> Part:
    """Choose the inputs on which two engines differ most: one batch if its size is fixed."""
    one, other = whole.expected, whole.got
    distance = np.max([_distances(one[name], other[name]) for name in one], axis=0)
    if batch is None:
        chosen = np.argsort(-distance, kind="stable")[:_MOST_IMAGES]
    else:
        chosen = int(distance.argmax()) // batch * batch + np.arange(batch)
    parts = (whole.feeds, one, other)
    return Part(*({name: x[chosen] for name, x in part.items()} for part in parts))


def _distances(one: Logits, other: Logits) -> Logits:
    """Return the largest difference of each image, relative to the largest logit of all."""
    error = np.abs(one.astype(np.float64) - other.astype(np.float64))
    largest: Logits = error.reshape(len(error), -1).max(axis=1)
    return largest / (np.abs(one).max(initial=0.0) or 1.0)


def _joined(batches: list[Feeds]) -> Feeds:
    return {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}


def _worst(expected: Feeds, got: Feeds) -> Agreement:
    """Compare all outputs; return the agreement of the one that differs most."""
    found = [compare(expected[name], got[name]) for name in expected]
    return max(found, key=lambda agreement: agreement.max_relative_error)


def _error(reference: Feeds, candidate: Feeds) -> float:
    return _worst(reference, candidate).max_relative_error


def _refuse_not_finite(source: Source, expected: Feeds) -> None:
    for name, values in expected.items():
        if not np.isfinite(values.astype(np.float64)).all():
            raise ConversionError(
                f"output {name!r} of {source.name} is not finite in Keras itself",
                hint="its weights may be damaged; or give real inputs with --data",
            )
