"""Graph passes on onnx-ir: one file each, none knows of Keras, data sets or targets."""

from __future__ import annotations

from dataclasses import dataclass, field

LAYER_KEY = "keras_layer"
"""In a node's metadata: the Keras layer that it came from."""


@dataclass(frozen=True)
class Kept:
    """A place that looked like a match and was left alone, and why."""

    node: str
    reason: str


@dataclass
class PassReport:
    """What one pass did to one graph; goes into the passport.

    Attributes:
        name: of the pass, in snake case.
        applied: names of the nodes that were rewritten, in graph order.
        kept: near matches that were left alone.
    """

    name: str
    applied: list[str] = field(default_factory=list)
    kept: list[Kept] = field(default_factory=list)
