"""The residual blocks and the template: shapes, shortcuts, and saving."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

pytestmark = pytest.mark.tf


@pytest.fixture(scope="module")
def resnet(keras: ModuleType) -> ModuleType:
    from exporter.models import resnet

    return resnet


def model_of(keras: ModuleType, block: Any, shape: tuple[int, int, int], **options: Any) -> Any:
    inputs = keras.Input(shape)
    return keras.Model(inputs, block(inputs, **options))


def shape_after(model: Any, layer: str) -> tuple[int | None, ...]:
    return tuple(model.get_layer(layer).output.shape)


def test_stage_shapes_of_resnet18(keras: ModuleType) -> None:
    """The shapes of the design, on 1x96x96x1."""
    from exporter.models import zoo

    model = zoo.build("resnet18")
    layers = ("stem_conv", "stem_pool", *(f"stage{n}_block2_relu" for n in (1, 2, 3, 4)))
    looking_in = keras.Model(
        model.input, [*(model.get_layer(name).output for name in layers), model.output]
    )
    outputs = looking_in(np.zeros((1, 96, 96, 1), np.float32), training=False)
    assert [tuple(output.shape) for output in outputs] == [
        (1, 48, 48, 64),
        (1, 24, 24, 64),
        (1, 24, 24, 64),
        (1, 12, 12, 128),
        (1, 6, 6, 256),
        (1, 3, 3, 512),
        (1, 10),
    ]
    assert model.input.shape == (None, 96, 96, 1)


def test_residual_block_keeps_the_shape(keras: ModuleType, resnet: ModuleType) -> None:
    model = model_of(keras, resnet.residual_block, (6, 6, 3), filters=3)
    assert model(np.ones((4, 6, 6, 3), np.float32)).shape == (4, 6, 6, 3)


@pytest.mark.parametrize(("side", "half"), [(6, 3), (7, 4), (1, 1)])
@pytest.mark.parametrize("block", ["residual_block", "bottleneck_block"])
def test_strides_halve_and_round_up(
    keras: ModuleType, resnet: ModuleType, block: str, side: int, half: int
) -> None:
    model = model_of(keras, getattr(resnet, block), (side, side, 4), filters=8, strides=2)
    assert model(np.ones((2, side, side, 4), np.float32)).shape == (2, half, half, 8)


@pytest.mark.parametrize("block", ["residual_block", "bottleneck_block"])
@pytest.mark.parametrize(
    ("filters", "strides", "projects"), [(4, 1, False), (8, 1, True), (4, 2, True)]
)
def test_shortcut_is_projected_where_the_shape_changes(
    keras: ModuleType, resnet: ModuleType, block: str, filters: int, strides: int, projects: bool
) -> None:
    model = model_of(
        keras, getattr(resnet, block), (6, 6, 4), filters=filters, strides=strides, name="b"
    )
    names = {layer.name for layer in model.layers}
    assert ("b_shortcut_conv" in names) is projects
    assert "b_shortcut_bn" not in names


def test_block_with_a_dead_branch_is_relu_of_the_shortcut(
    keras: ModuleType, resnet: ModuleType
) -> None:
    """With the last batch norm's gamma and beta zero the branch adds nothing."""
    model = model_of(keras, resnet.residual_block, (6, 6, 3), filters=3, name="b")
    last = model.get_layer("b_2_bn")
    last.gamma.assign(np.zeros(3))
    last.beta.assign(np.zeros(3))
    x = np.random.default_rng(0).normal(size=(2, 6, 6, 3)).astype(np.float32)
    np.testing.assert_array_equal(model(x, training=False), np.maximum(x, 0))


def test_residual_block_is_two_3x3_convolutions(keras: ModuleType, resnet: ModuleType) -> None:
    model = model_of(keras, resnet.residual_block, (6, 6, 4), filters=8, strides=2, name="b")
    convs = {layer.name: layer for layer in model.layers if "conv" in layer.name}
    assert {name: (c.kernel_size, c.strides) for name, c in convs.items()} == {
        "b_1_conv": ((3, 3), (2, 2)),
        "b_2_conv": ((3, 3), (1, 1)),
        "b_shortcut_conv": ((1, 1), (2, 2)),
    }
    assert all(c.use_bias and c.padding == "same" for c in convs.values())


def test_bottleneck_block_strides_in_its_3x3(keras: ModuleType, resnet: ModuleType) -> None:
    model = model_of(keras, resnet.bottleneck_block, (6, 6, 4), filters=8, strides=2, name="b")
    convs = {layer.name: layer for layer in model.layers if "conv" in layer.name}
    assert {name: (c.kernel_size, c.strides, c.filters) for name, c in convs.items()} == {
        "b_1_conv": ((1, 1), (1, 1), 2),
        "b_2_conv": ((3, 3), (2, 2), 2),
        "b_3_conv": ((1, 1), (1, 1), 8),
        "b_shortcut_conv": ((1, 1), (2, 2), 8),
    }


@pytest.mark.parametrize("block", ["residual_block", "bottleneck_block"])
@pytest.mark.parametrize("strides", [1, 2])
def test_saves_and_loads_with_no_custom_objects(
    keras: ModuleType, resnet: ModuleType, tmp_path: Path, block: str, strides: int
) -> None:
    model = model_of(keras, getattr(resnet, block), (6, 6, 4), filters=4, strides=strides)
    model.save(tmp_path / "block.keras")
    loaded = keras.models.load_model(tmp_path / "block.keras")
    x = np.random.default_rng(0).normal(size=(2, 6, 6, 4)).astype(np.float32)
    np.testing.assert_array_equal(loaded(x, training=False), model(x, training=False))
