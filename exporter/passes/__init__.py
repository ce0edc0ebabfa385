"""Graph passes on onnx-ir, one per file. No pass knows Keras, data sets or targets."""

from __future__ import annotations

from dataclasses import dataclass, field

LAYER_KEY = "keras_layer"
"""Key in a node's metadata for the name of its Keras layer."""


@dataclass(frozen=True)
class Kept:
    """A node that looked like a match but was left unchanged, and the reason."""

    node: str
    reason: str


@dataclass
class PassReport:
    """What one pass did to one graph. It goes into the passport.

    Attributes:
        name: the pass's name, in snake case.
        applied: names of the rewritten nodes, in graph order.
        kept: near matches that were left unchanged.
    """

    name: str
    applied: list[str] = field(default_factory=list)
    kept: list[Kept] = field(default_factory=list)
