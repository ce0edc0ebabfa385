"""The paired statistics against published examples, scipy, and simulated coverage."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.accuracy.paired import difference_interval, mcnemar_exact, paired


def test_worked_by_hand() -> None:
    # 3 discordant: P(0 or 3 of 3 fall to one side) = 2 / 8.
    reference = np.array([1, 1, 1, 1, 0, 0], bool)
    candidate = np.array([1, 0, 0, 0, 0, 0], bool)
    found = paired(reference, candidate)
    assert (found.images, found.lost, found.won) == (6, 3, 0)
    assert found.change_points == -50
    assert found.p_value == 0.25
    # (0 + 1) / 8 - (3 + 1) / 8 = -3/8; variance (5/8 - 9/64) / 8 = 31/512.
    half = 1.959963984540054 * (31 / 512) ** 0.5
    assert found.interval_points == pytest.approx((-37.5 - 100 * half, -37.5 + 100 * half))
    assert found.as_json()["interval_points"] == list(found.interval_points)


def test_published_example() -> None:
    """Fagerland, Lydersen and Laake 2014 (Statistics in Medicine 33, 2850-2875), table I.

    Airway reactivity before and after a transplantation, 21 children, discordant 1 and 7.
    """
    assert mcnemar_exact(7, 1) == pytest.approx(0.0703, abs=5e-5)
    low, high = difference_interval(7, 1, 21)
    assert low == pytest.approx(-0.508, abs=1e-3)
    assert high == pytest.approx(-0.013, abs=1e-3)


@pytest.mark.parametrize(
    ("lost", "won"), [(0, 0), (1, 0), (0, 9), (5, 5), (12, 30), (271, 198), (4000, 4100)]
)
def test_p_value_is_scipys(lost: int, won: int) -> None:
    stats = pytest.importorskip("scipy.stats", reason="scipy is the oracle: pip install scipy")
    expected = stats.binomtest(lost, lost + won).pvalue if lost + won else 1.0
    assert mcnemar_exact(lost, won) == pytest.approx(expected, rel=1e-9)
    assert mcnemar_exact(won, lost) == mcnemar_exact(lost, won)


@pytest.mark.parametrize(
    ("p_lost", "p_won"), [(0.003, 0.0025), (0.0005, 0.0001), (0.02, 0.01), (0.0, 0.0)]
)
def test_intervals_cover_as_often_as_they_say(p_lost: float, p_won: float) -> None:
    images, rounds = 10_000, 3000
    drawn = np.random.default_rng(1).multinomial(
        images, [p_lost, p_won, 1 - p_lost - p_won], rounds
    )
    covered = 0
    for lost, won, _ in drawn:
        low, high = difference_interval(int(lost), int(won), images)
        covered += low <= p_won - p_lost <= high
    # 3000 rounds know a share of 0.95 to a standard error of 0.004. Where nearly no image is
    # discordant the interval is known to be too wide, never too narrow.
    assert covered / rounds > 0.95 - 3 * 0.004
    if p_lost > 0.002:
        assert covered / rounds < 0.95 + 3 * 0.004


def test_false_alarms_are_no_more_than_promised() -> None:
    drawn = np.random.default_rng(2).binomial(60, 0.5, 3000)
    alarms = np.mean([mcnemar_exact(int(k), 60 - int(k)) < 0.05 for k in drawn])
    assert 0.01 < alarms < 0.05 + 3 * 0.004


def test_the_sign_is_that_of_the_candidate() -> None:
    low, high = difference_interval(lost=10, won=40, images=1000)
    assert 0 < low < 0.03 < high
    assert difference_interval(40, 10, 1000) == pytest.approx((-high, -low))


def test_no_discordant_image_still_leaves_doubt() -> None:
    low, high = difference_interval(0, 0, 100)
    assert -0.05 < low < 0 < high < 0.05
    assert difference_interval(1, 0, 1)[0] == -1, "no proportion changes by more than all of it"


@pytest.mark.parametrize(("reference", "candidate"), [((3,), (4,)), ((0,), (0,)), ((2, 2), (2, 2))])
def test_other_images_are_refused(reference: tuple[int, ...], candidate: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="need the same images"):
        paired(np.zeros(reference, bool), np.zeros(candidate, bool))
