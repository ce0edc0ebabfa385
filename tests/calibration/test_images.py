from __future__ import annotations

import numpy as np
import pytest

from calibration.errors import NoData, OverlapsEvaluation, WrongRequest
from calibration.images import class_balance, image_hash, overlap, refuse_overlap

IMAGES = np.random.default_rng(3).integers(0, 256, (20, 4, 4), dtype=np.uint8)


def test_overlap_finds_shared_images_wherever_they_stand() -> None:
    evaluation = np.concatenate([IMAGES[15:], IMAGES[[3]]])
    assert overlap(IMAGES[:16], evaluation) == [3, 15]
    assert overlap(iter(IMAGES[:16]), iter(evaluation)) == [3, 15]
    assert overlap(IMAGES[:10], IMAGES[10:]) == []


def test_a_hash_is_of_content_and_its_meaning_not_of_memory_layout() -> None:
    image = IMAGES[0]
    assert image_hash(image) == image_hash(np.asfortranarray(image))
    assert image_hash(image) != image_hash(image.astype(np.uint16))
    assert image_hash(image) != image_hash(image.reshape(2, 8))


def test_refusal_names_the_first_of_them() -> None:
    refuse_overlap(IMAGES[:10], IMAGES[10:])
    with pytest.raises(OverlapsEvaluation, match=r"10 calibration.*: 0, 1, 2, 3, 4, \.\.\."):
        refuse_overlap(IMAGES[:10], IMAGES)


def test_class_balance() -> None:
    assert class_balance(np.arange(100) % 10, 10) is None
    poor = class_balance([0] * 50 + [1] * 46 + [2] * 4, 4)
    assert poor == "poor class balance in 100 calibration images (class 2: 4, class 3: 0)"
    # At exactly half of its even share a class still passes.
    assert class_balance([0] * 15 + [1] * 5, 2) is None


def test_class_balance_refuses_what_it_cannot_judge() -> None:
    with pytest.raises(NoData):
        class_balance([], 3)
    with pytest.raises(WrongRequest, match="labels go from 0 to 3, but classes from 0 to 2"):
        class_balance([0, 3], 3)
