"""The ResNeXt block: shapes, groups, shortcuts, and saving."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

pytestmark = pytest.mark.tf


def model_of(keras: ModuleType, shape: tuple[int, int, int], filters: int, **options: Any) -> Any:
    from exporter.models.resnext import resnext_block

    inputs = keras.Input(shape)
    return keras.Model(inputs, resnext_block(inputs, filters, name="b", **options))


def layer_names(model: Any) -> set[str]:
    return {layer.name for layer in model.layers}


def test_keeps_the_shape(keras: ModuleType) -> None:
    model = model_of(keras, (96, 96, 32), 32, groups=16)
    assert model(np.ones((4, 96, 96, 32), np.float32)).shape == (4, 96, 96, 32)


@pytest.mark.parametrize(("side", "half"), [(6, 3), (7, 4)])
def test_strides_halve_and_round_up(keras: ModuleType, side: int, half: int) -> None:
    model = model_of(keras, (side, side, 4), 8, groups=2, strides=2)
    assert model(np.ones((2, side, side, 4), np.float32)).shape == (2, half, half, 8)


@pytest.mark.parametrize(
    ("filters", "strides", "project", "projects"),
    [
        (4, 1, None, False),
        (4, 1, True, True),
        (8, 1, None, True),
        (4, 2, None, True),
    ],
)
def test_shortcut_has_convolution_and_batch_norm_where_asked_or_needed(
    keras: ModuleType, filters: int, strides: int, project: bool | None, projects: bool
) -> None:
    model = model_of(keras, (6, 6, 4), filters, groups=2, strides=strides, project=project)
    assert ("b_shortcut_conv" in layer_names(model)) is projects
    assert ("b_shortcut_bn" in layer_names(model)) is projects


@pytest.mark.parametrize(("bottleneck", "inner"), [(1.0, 8), (0.5, 4)])
def test_inner_convolution_is_grouped(keras: ModuleType, bottleneck: float, inner: int) -> None:
    model = model_of(keras, (6, 6, 8), 8, groups=4, bottleneck=bottleneck)
    conv = model.get_layer("b_2_conv")
    assert (conv.groups, conv.filters) == (4, inner)
    # Each output channel sees the channels of its own group only.
    assert conv.kernel.shape == (3, 3, inner // 4, inner)


def test_groups_do_not_see_each_other(keras: ModuleType) -> None:
    """A change in the inputs of the last group leaves the others' outputs alone."""
    conv = model_of(keras, (6, 6, 8), 8, groups=4).get_layer("b_2_conv")
    x = np.random.default_rng(0).normal(size=(1, 6, 6, 8)).astype(np.float32)
    changed = x.copy()
    changed[..., 6:] += 1
    moved = np.abs(np.asarray(conv(changed)) - np.asarray(conv(x))).max(axis=(0, 1, 2))
    assert (moved[:6] == 0).all()
    assert (moved[6:] > 0).all()


def test_groups_must_divide_the_inner_channels(keras: ModuleType) -> None:
    with pytest.raises(ValueError, match="5 inner channels can't be split into 2 groups"):
        model_of(keras, (6, 6, 4), 10, groups=2, bottleneck=0.5)


@pytest.mark.parametrize("project", [False, True])
def test_saves_and_loads_with_no_custom_objects(
    keras: ModuleType, tmp_path: Path, project: bool
) -> None:
    model = model_of(keras, (6, 6, 8), 8, groups=4, project=project)
    model.save(tmp_path / "block.keras")
    loaded = keras.models.load_model(tmp_path / "block.keras")
    x = np.random.default_rng(0).normal(size=(2, 6, 6, 8)).astype(np.float32)
    np.testing.assert_array_equal(loaded(x, training=False), model(x, training=False))
