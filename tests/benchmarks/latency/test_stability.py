"""Trends against scipy, and each reason not to trust a measurement on its own."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy import stats

from benchmarks.latency.stability import drift, reasons, trend_p_value
from tests.benchmarks.latency_jobs import QUIET, row

STEADY = [10.0, 10.1, 9.9, 10.05, 9.95]


@pytest.mark.parametrize("count", [2, 5, 6, 9])
@pytest.mark.parametrize("seed", range(5))
def test_trend_is_scipys(count: int, seed: int) -> None:
    values = list(np.random.default_rng(seed).random(count))
    order = range(count)
    exact = stats.kendalltau(order, values, method="exact").pvalue
    assert trend_p_value(values) == pytest.approx(exact, rel=1e-12)
    slope = stats.theilslopes(values, order).slope
    assert drift(values) == pytest.approx(slope * (count - 1) / np.median(values), rel=1e-12)


def test_quiet_is_stable() -> None:
    assert reasons([row("keras", STEADY), row("ort", STEADY)], "keras", "sweep", 0.01) == ()


def test_unknown_is_no_reason() -> None:
    unknown = replace(
        QUIET, others=None, stolen=None, throttled_s=None, throttle_events=None, mhz=None
    )
    assert reasons([row("keras", STEADY, load=unknown)], "keras", "sweep", 0.01) == ()


@pytest.mark.parametrize(
    ("load", "said"),
    [
        ({"others": 0.31}, "other processes took up to 31% of the cores' time, over 5% in 5 of 5"),
        ({"stolen": 0.04}, "the hypervisor took up to 4%"),
        ({"throttled_s": 0.2}, "a CPU quota held back 5 of 5 blocks, 1.00 s in all"),
        ({"throttle_events": 2}, "cores slowed down for heat 10 times"),
    ],
)
def test_each_kind_of_noise_is_named(load: dict[str, Any], said: str) -> None:
    (found,) = reasons([row("keras", STEADY, load=replace(QUIET, **load))], "keras", "sweep", 0.01)
    assert said in found


def test_one_slow_clock_is_named() -> None:
    slow = row("ort", STEADY[:1], load=replace(QUIET, mhz=2000.0))
    (found,) = reasons([row("keras", STEADY), slow], "keras", "sweep", 0.01)
    assert found == "the clock fell to 2000 MHz from its usual 3000 MHz"


def test_drift_scatter_cold_blocks_and_a_busy_start() -> None:
    drifting = row("keras", [10.0, 10.2, 10.4, 10.6, 10.8])
    assert "keras, batch 1: drifted by +8%" in reasons([drifting], "keras", "sweep", 0.01)[0]
    assert reasons([drifting], "ort", "sweep", 0.01) == (), "only the baseline's drift counts"
    (found,) = reasons([row("ort", [10, 14, 9, 13, 10.5])], "keras", "sweep", 0.01)
    assert "rounds differ by" in found
    cold = row("ort", STEADY)
    cold = replace(cold, blocks=(replace(cold.blocks[0], warm=False), *cold.blocks[1:]))
    assert "1 of 5 blocks never warmed up" in reasons([cold], "keras", "sweep", 0.01)[0]
    (found,) = reasons([row("ort", STEADY)], "keras", "sweep", 0.3)
    assert found == "the machine was busy before the start: 30% of the cores' time"
    assert reasons([row("ort", STEADY)], "keras", "sweep", None) == ()
