"""The figures that the gate compares, each with its tolerance and the reason for it.

The tolerances here are the defaults for a new baseline. After that, the baseline's file decides.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.gate import differences
from benchmarks.gate.differences import Difference
from benchmarks.gate.facts import Facts


@dataclass(frozen=True)
class Tolerance:
    """How far a figure may be from its baseline, and the reason for that limit."""

    within: float
    why: str


Compare = Callable[[Facts, Facts], Difference | None]


@dataclass(frozen=True)
class Figure:
    """A row of :data:`FIGURES`; ``unit`` applies to its distances and its tolerance."""

    rung: str
    unit: str
    compare: Compare
    default: Tolerance


FIGURES: dict[str, Figure] = {
    "source": Figure(
        "Keras",
        "files",
        differences.source,
        Tolerance(
            0,
            "Other weights are another release: look at what it costs before it is the baseline.",
        ),
    ),
    "setting": Figure(
        "Keras",
        "settings",
        differences.setting,
        Tolerance(
            0, "Preprocessing and calibration images are chosen by people; none changes by itself."
        ),
    ),
    "folds": Figure(
        "BN folded",
        "batch norms",
        differences.folds,
        Tolerance(
            0, "A batch norm that stays costs a pass over memory, and parts what would fuse."
        ),
    ),
    "ops": Figure(
        "BN folded",
        "nodes",
        differences.ops,
        Tolerance(0, "The passes are deterministic: one node more or less is a pass that changed."),
    ),
    "weights": Figure(
        "BN folded",
        "share of the norm",
        differences.layers,
        Tolerance(
            0.01,
            "Folded in float64 and rounded once, weights come out alike everywhere; 1% is room "
            "for integer biases, whose step follows an activation's range. Weights of 7 bits are "
            "rounded by sums of floats, whose last digits move them by 0.2%. A multiple is seen "
            "exactly, any other change to within a fifth of itself.",
        ),
    ),
    "qdq": Figure(
        "Q/DQ",
        "nodes",
        differences.qdq,
        Tolerance(0, "Placement is a policy: a pair that comes or goes changes what runs in INT8."),
    ),
    "ranges": Figure(
        "Q/DQ",
        "share of the range",
        differences.ranges,
        Tolerance(
            0.02,
            "Another CPU's float rounding can move a chosen range by a few of the histogram's "
            "2,048 bins; other images or a wrong scale move it by more.",
        ),
    ),
    "warnings": Figure(
        "Q/DQ",
        "warnings",
        differences.warnings,
        Tolerance(
            0, "A warning that was not there when the baseline was accepted has not been read."
        ),
    ),
    "fusion": Figure(
        "engine",
        "ops",
        differences.fusion,
        Tolerance(
            0,
            "A fusion lost is latency lost. A new version of the runtime may fuse otherwise: look, "
            "then --update.",
        ),
    ),
    "size": Figure(
        "engine",
        "share of the file",
        differences.size,
        Tolerance(
            0.02,
            "The same graph serializes within a few bytes; 2% is room for an engine builder's "
            "choice of kernels.",
        ),
    ),
    "accuracy": Figure(
        "engine",
        "points of top-1",
        differences.accuracy,
        Tolerance(
            0.1,
            "Tested in pairs first: inside the 95% interval is chance. A loss beyond it may be 0.1 "
            "points, about what the best published INT8 of such networks loses in all.",
        ),
    ),
    "flips": Figure(
        "engine",
        "points of agreement",
        differences.agreement,
        Tolerance(
            0.1,
            "As accuracy, for agreement with the Keras original: labels are not asked, so that an "
            "error that helps by luck counts too.",
        ),
    ),
    "labels": Figure(
        "engine",
        "percent of the images",
        differences.labels,
        Tolerance(
            0.2,
            "Another CPU sums in another order, which flips images whose two largest logits all "
            "but tie; 20 of 10,000 is more than ties.",
        ),
    ),
    "logits": Figure(
        "engine",
        "share of the error",
        differences.logit_error,
        Tolerance(
            0.25,
            "The largest error is one image's, so it scatters; a quarter more of it or of the mean "
            "is no scatter. Errors below 1e-4 are float32's rounding and pass.",
        ),
    ),
    "latency": Figure(
        "engine",
        "share of the ratio",
        differences.latency,
        Tolerance(
            0.15,
            "A ratio of two latencies taken in turn on one machine; never an absolute time, which "
            "belongs to the machine.",
        ),
    ),
}
"""The figures by name, in the order of the export: the first one to drift shows the cause."""
