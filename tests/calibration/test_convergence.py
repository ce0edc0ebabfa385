from __future__ import annotations

import json
from typing import Any

import pytest

from calibration import convergence
from calibration.convergence import Snapshot

SNAPSHOTS = (
    Snapshot(16, {"a": 1.0, "b": 4.0, "dead": 0.0}),
    Snapshot(32, {"a": 1.25, "b": 4.0, "dead": 0.0}),
    Snapshot(40, {"a": 1.25, "b": 3.0, "dead": 0.0}),
)


def test_change_is_a_share_of_the_wider_range() -> None:
    assert SNAPSHOTS[1].change(SNAPSHOTS[0]) == 0.2
    assert SNAPSHOTS[2].most_changed(SNAPSHOTS[1]) == (0.25, "b")
    assert SNAPSHOTS[0].change(SNAPSHOTS[0]) == 0


def test_summary_names_what_changed_most() -> None:
    assert convergence.summary(SNAPSHOTS) == [
        {"images": 32, "change": 0.2, "tensor": "a"},
        {"images": 40, "change": 0.25, "tensor": "b"},
    ]
    assert convergence.summary(SNAPSHOTS[:1]) == convergence.summary(()) == []


@pytest.mark.parametrize("count", [0, 1, 3])
def test_snapshots_survive_json(count: int) -> None:
    text = json.dumps(convergence.to_json(SNAPSHOTS[:count]))
    assert convergence.from_json(json.loads(text)) == SNAPSHOTS[:count]


@pytest.mark.parametrize(
    "content",
    [
        {"images": [16, 16], "amax": {}},
        {"images": [0], "amax": {}},
        {"images": [True], "amax": {}},
        {"images": [16], "amax": {"a": [1.0, 2.0]}},
        {"images": [16], "amax": {"a": [-1.0]}},
        {"images": [16], "amax": {"a": [float("nan")]}},
    ],
)
def test_damage_is_refused(content: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="convergence"):
        convergence.from_json(content)
