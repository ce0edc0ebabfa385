"""The expectations of engines on a GPU, each broken once on made-up measurements."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks.accuracy.paired import Paired, difference_interval, mcnemar_exact
from benchmarks.gpu_acceptance.expectations import EXPECTATIONS, Figures, exit_code, judge
from benchmarks.latency.result import Ratio
from exporter.engines.audit import NOT_TOLD, Audit, audit
from exporter.engines.layers import read_layers
from exporter.network.agreement import Agreement

RECORDS = Path(__file__).parents[2] / "data" / "trt-records"
IMAGES = 10_000


def paired(lost: int, won: int) -> Paired:
    low, high = difference_interval(lost, won, IMAGES)
    change = 100 * (won - lost) / IMAGES
    return Paired(IMAGES, lost, won, change, (100 * low, 100 * high), mcnemar_exact(lost, won))


def agreement(flips: int, error: float = 0.01) -> Agreement:
    return Agreement(IMAGES, flips, error, error / 10, error / 20)


def audited(name: str) -> Audit:
    return audit(read_layers(RECORDS / name))


# NVIDIA's records of two real engines: with Q/DQ on the shortcuts, and without.
FUSED = audited("mobilenet_v2_residuals.qat.layers.json")
NOT_FUSED = audited("mobilenet.qat.layers.json")
GOOD = Figures(
    "net",
    "int8",
    IMAGES,
    IMAGES,
    graph_convolutions=len(FUSED.convolutions),
    paired=paired(20, 10),  # 0.1 points: the limit itself
    simulation=agreement(100),  # 99%: the limit itself
    audit=FUSED,
    speedup={1: Ratio("fp16", 1.4, 1.3, 1.5), 8: Ratio("fp16", 1.1, 1.0, 1.2)},
)


def verdicts(**changed: Any) -> dict[str, str]:
    return {row.expectation: row.verdict for row in judge([replace(GOOD, **changed)])}


def why(expectation: str, **changed: Any) -> str:
    rows = judge([replace(GOOD, **changed)])
    return next(row.why for row in rows if row.expectation == expectation)


def test_at_the_limits_all_is_met() -> None:
    assert verdicts() == dict.fromkeys(
        ["runs", "top-1", "agreement", "fusion", "speed, batch 1", "speed, batch 8"], "met"
    )
    assert exit_code(verdicts().values()) == 0


CONVOLUTION = FUSED.convolutions[0]
SLOWER = {1: Ratio("fp16", 0.9, 0.8, 0.99), 8: GOOD.speedup[8]}
BROKEN = [
    ("runs", {"failed": "TensorRT could not build"}),
    ("top-1", {"paired": paired(21, 10)}),  # one image beyond 0.1 points
    ("agreement", {"simulation": agreement(101)}),
    ("agreement", {"simulation": agreement(0, float("inf"))}),  # NaN among the logits
    ("fusion", {"audit": replace(FUSED, convolutions=(replace(CONVOLUTION, precision="FP16"),))}),
    ("fusion", {"audit": NOT_FUSED}),
    ("speed, batch 1", {"speedup": SLOWER}),
]


@pytest.mark.parametrize(("expectation", "changed"), BROKEN)
def test_each_broken_once_is_caught_and_nothing_else(
    expectation: str, changed: dict[str, Any]
) -> None:
    found = verdicts(**changed)
    assert [name for name, verdict in found.items() if verdict != "met"] == [expectation]
    assert found[expectation] == "not met"
    assert exit_code(found.values()) == 3


def test_every_row_is_broken_somewhere() -> None:
    broken = {name.partition(",")[0] for name, _ in BROKEN}
    assert broken == {row.name for row in EXPECTATIONS}


HIDDEN = replace(FUSED, convolutions=FUSED.convolutions[1:], opaque=("ForeignNode",))
UNTOLD = replace(FUSED, adds=(replace(FUSED.adds[0], reason=NOT_TOLD), *FUSED.adds[1:]))
UNKNOWN = [
    (["top-1", "agreement"], {"images": 500}, "500 of 10,000"),
    (["top-1"], {"paired": None}, "did not run"),
    (["agreement"], {"simulation": None}, "did not run"),
    (["fusion"], {"audit": None}, "no record"),
    (["fusion"], {"audit": replace(FUSED, convolutions=())}, "are not in the record"),
    (["fusion"], {"audit": UNTOLD}, "the record lacks its types"),
    (["fusion"], {"audit": HIDDEN}, "1 of 53 convolutions are not in the record, 1 compiled"),
    (["speed, batch 1", "speed, batch 8"], {"unstable": ("the clock fell",)}, "clock fell"),
    (["speed, batch 1"], {"speedup": {1: Ratio("fp16", 1.0, 0.97, 1.03)}}, "contains 1"),
    (["speed, batch 1"], {"speedup": {}, "no_speedup": {1: "INT8 failed"}}, "INT8 failed"),
    (["speed"], {"speedup": {}}, "no latency"),
]


@pytest.mark.parametrize(("expected", "changed", "reason"), UNKNOWN)
def test_what_nothing_decides_is_not_judged(
    expected: list[str], changed: dict[str, Any], reason: str
) -> None:
    found = verdicts(**changed)
    assert [name for name, verdict in found.items() if verdict != "met"] == expected
    assert {found[name] for name in expected} == {"not judged"}
    assert all(reason in why(name, **changed) for name in expected)
    assert exit_code(found.values()) == 4


def test_a_kernel_that_no_record_shows_does_not_hide_one_that_is_wrong() -> None:
    wrong = (replace(CONVOLUTION, precision="FP16"),)
    assert verdicts(audit=replace(HIDDEN, convolutions=wrong))["fusion"] == "not met"


def test_fp16_is_held_to_what_is_about_it() -> None:
    rows = judge([replace(GOOD, precision="fp16")])
    assert [row.expectation for row in rows] == ["runs", "top-1", "agreement"]


def test_not_met_outranks_not_judged() -> None:
    assert exit_code(["met", "not judged", "not met"]) == 3
