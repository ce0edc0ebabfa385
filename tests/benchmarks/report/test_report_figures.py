"""The figures' scales and labels: ticks are round and on the axis, names keep apart."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.report import svg
from benchmarks.report.charts import spread_out

numbers = st.floats(1e-4, 1e6)


@given(low=numbers, factor=st.floats(1.01, 1e4), log=st.booleans(), most=st.integers(3, 9))
def test_ticks_are_round_and_lie_on_the_axis(
    low: float, factor: float, log: bool, most: int
) -> None:
    scale = svg.Scale(low, low * factor, 10, 500, log)
    ticks = scale.ticks(most)
    assert 1 <= len(ticks) <= most + 1
    assert ticks == sorted(set(ticks))
    for tick in ticks:
        assert 9 <= scale(tick) <= 501
        assert float(f"{tick:.3g}") == pytest.approx(tick, rel=1e-2)


@given(places=st.lists(st.floats(0, 100), min_size=1, max_size=6))
def test_labels_keep_apart_and_in_order(places: list[float]) -> None:
    moved = spread_out(places, 15, 0, 100)
    order = sorted(range(len(places)), key=places.__getitem__)
    assert all(moved[b] - moved[a] >= 15 - 1e-9 for a, b in pairwise(order))
    assert -1e-9 <= min(moved) <= max(moved) <= 100 + 1e-9
