"""Ranking and choosing, on costs that are known because the test sets them."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calibration.errors import CalibrationError
from calibration.sensitivity import LayerCost, choose, noise_ratio, rank


def nothing(stage: str, done: int, total: int, note: str = "") -> None:
    """Report nothing."""


def test_noise_is_a_ratio_of_energies() -> None:
    reference = np.array([[3.0, 4.0], [0.0, 0.0]], np.float32)
    off = reference + np.array([[0.0, 0.5], [0.0, 0.0]], np.float32)
    assert noise_ratio(reference, off) == 0.25 / 25
    assert LayerCost("x", 0.25 / 25, 0, 1).sqnr_db == pytest.approx(20)
    assert noise_ratio(reference, reference) == 0
    assert LayerCost("x", 0.0, 0, 1).sqnr_db == math.inf
    assert noise_ratio(reference, np.full_like(reference, np.nan)) == math.inf
    assert LayerCost("x", math.inf, 0, 1).sqnr_db == -math.inf


@pytest.mark.parametrize("value", [0.0, np.nan, np.inf])
def test_a_reference_without_energy_is_refused(value: float) -> None:
    reference = np.full((2, 3), value, np.float32)
    with pytest.raises(CalibrationError, match="all zero, or some are NaN or infinite"):
        noise_ratio(reference, np.ones((2, 3), np.float32))


def test_the_costliest_comes_first_and_flips_are_counted() -> None:
    reference = np.array([[1.0, 0.0], [0.0, 1.0], [0.6, 0.5]])
    results = {
        "a": reference * 1.01,
        "b": reference[:, ::-1],
        "c": reference + np.array([0.0, 0.15]),
    }
    costs = rank({"a": 10, "b": 20, "c": 30}, reference, results.__getitem__, nothing)
    assert [cost.name for cost in costs] == ["b", "c", "a"]
    assert [cost.flips for cost in costs] == [3, 1, 0]
    assert [cost.macs for cost in costs] == [20, 30, 10]


def costs_of(losses: dict[str, int], macs: dict[str, int]) -> list[LayerCost]:
    return [LayerCost(name, loss / 1000, 0, macs[name]) for name, loss in losses.items()]


def test_the_one_layer_that_costs_is_the_one_that_is_kept() -> None:
    """It is also the most expensive, so that by noise per multiply-add it comes last."""
    losses = {"stem": 30, "a": 1, "b": 1, "c": 1, "head": 1}
    macs = {"stem": 10**9, "a": 10, "b": 10, "c": 10, "head": 10}
    choice = choose(costs_of(losses, macs), 4, lambda keep: 34 - sum(losses[name] for name in keep))
    assert choice.keep == ("stem",)
    assert choice.lost == 4
    assert choice.lost_without == {"stem": 34}


def test_two_cheap_layers_are_kept_rather_than_an_expensive_one() -> None:
    losses = {"wide": 10, "a": 6, "b": 6}
    macs = {"wide": 10**6, "a": 10, "b": 10}
    choice = choose(
        costs_of(losses, macs), 10, lambda keep: 22 - sum(losses[name] for name in keep)
    )
    assert set(choice.keep) == {"a", "b"}
    assert choice.lost == 10
    assert choice.lost_without == {"a": 16, "b": 16}


def test_nothing_is_kept_where_the_budget_holds_as_it_is() -> None:
    choice = choose(costs_of({"a": 2}, {"a": 1}), 2, lambda keep: 2)
    assert (choice.keep, choice.lost, choice.trials) == ((), 2, 1)


def test_how_close_it_came_where_nothing_holds() -> None:
    losses = {"a": 5, "b": 3, "c": 2}
    choice = choose(
        costs_of(losses, dict.fromkeys(losses, 1)),
        0,
        lambda keep: 10 - sum(losses[name] for name in keep),
    )
    assert choice.keep == ("a", "b"), "all three in float would be no INT8 at all"
    assert choice.lost == 2


layer_losses = st.lists(st.integers(0, 20), min_size=2, max_size=6)


@settings(deadline=None, max_examples=50)
@given(layer_losses, st.lists(st.integers(1, 50), min_size=6, max_size=6), st.integers(0, 40))
def test_a_choice_holds_and_none_of_it_is_superfluous(
    numbers: list[int], prices: list[int], allowed: int
) -> None:
    """Losses that add up: where any set with one layer in INT8 holds, a set is found."""
    losses = {f"l{i}": loss for i, loss in enumerate(numbers)}
    macs = dict(zip(losses, prices, strict=False))

    def lost(keep: frozenset[str]) -> int:
        return sum(loss for name, loss in losses.items() if name not in keep)

    calls: list[frozenset[str]] = []
    choice = choose(costs_of(losses, macs), allowed, lambda keep: calls.append(keep) or lost(keep))
    assert len(calls) == len(set(calls)) == choice.trials
    assert lost(frozenset(choice.keep)) == choice.lost
    assert len(choice.keep) < len(losses)
    possible = any(
        lost(frozenset(keep)) <= allowed
        for size in range(len(losses))
        for keep in itertools.combinations(losses, size)
    )
    assert (choice.lost <= allowed) == possible
    if possible:
        for name in choice.keep:
            assert lost(frozenset(choice.keep) - {name}) > allowed
            assert choice.lost_without[name] > allowed
