"""Sensitivity and ``--max-drop`` on a network whose one bad layer is known by construction."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from calibration.sensitivity import LayerCost
from exporter.errors import GateRefused, WrongUse
from exporter.precision.fallback import hold_budget
from exporter.precision.sensitivity import Sensitivity, check_picture, draw, measure
from exporter.precision.trials import Trials
from exporter.progress import silent
from tests.exporter import sensitive


@pytest.fixture(scope="module")
def tensorrt() -> Trials:
    return sensitive.trials("tensorrt", sensitive.network())


@pytest.fixture(scope="module")
def cpu() -> Trials:
    return sensitive.trials("cpu", sensitive.network())


def test_the_ruined_layer_ranks_first(tensorrt: Trials) -> None:
    images = sensitive.held_out(tensorrt)
    result = measure(tensorrt, images, silent)
    worst, *others = result.layers
    assert worst.name == "ruined"
    assert worst.sqnr_db < 3, "seven of its eight inputs are rounded to nothing"
    assert all(cost.sqnr_db > 25 for cost in others), result.layers
    assert worst.flips > 10 > max(cost.flips for cost in others)
    assert {cost.name: cost.macs for cost in result.layers} == sensitive.MACS


def test_the_cpu_scheme_rounds_what_a_layer_gives_too(cpu: Trials) -> None:
    """So the layer before it, whose output has the loud channel, is as bad."""
    result = measure(cpu, sensitive.held_out(cpu), silent)
    assert {cost.name for cost in result.layers[:2]} == {"first", "ruined"}
    assert result.layers[1].sqnr_db < 3 < 25 < result.layers[2].sqnr_db


def test_alone_means_alone(cpu: Trials) -> None:
    """Integers of one layer are all that is in the graph, so its own range is all it needs."""
    images = sensitive.held_out(cpu)
    only = {"second_relu", "ruined_relu"}
    ranges = {name: cpu.ranges[name] for name in only}
    alone = replace(cpu, ranges=ranges).logits_alone("second", images)
    np.testing.assert_array_equal(alone, cpu.logits_alone("second", images))


def test_a_quiet_network_needs_nothing_in_float() -> None:
    ready = sensitive.trials("tensorrt", sensitive.network(loudest=1.0))
    found = hold_budget(ready, sensitive.held_out(ready), 5.0, silent)
    assert found.nodes == ()
    assert found.sensitivity is None, "nothing was to be chosen"
    assert found.as_json()["lost_images"] <= found.allowed == 4


def test_the_ruined_layer_alone_stays_in_float(tensorrt: Trials) -> None:
    images = sensitive.held_out(tensorrt)
    found = hold_budget(tensorrt, images, 5.0, silent)
    assert found.choice.keep == ("ruined",)
    record = json.loads(json.dumps(found.as_json(), allow_nan=False))
    (kept,) = record["kept"]
    assert (kept["node"], kept["macs"]) == ("ruined", sensitive.MACS["ruined"])
    assert kept["lost_images_without"] > record["allowed_images"] == 4
    assert record["lost_images"] == record["newly_wrong"] - record["newly_right"] <= 4
    assert record["resolution_points"] == pytest.approx(100 / 96)
    assert "4 of 96 held-out images: chance alone" in found.warnings[0]
    # The oracle: run it again by itself.
    now = tensorrt.logits(found.nodes, images).argmax(-1) == images.labels
    assert int((~now).sum()) == record["lost_images"], "float has all of them right"


def test_both_ends_of_the_loud_tensor_stay_in_float_on_the_cpu(cpu: Trials) -> None:
    found = hold_budget(cpu, sensitive.held_out(cpu), 5.0, silent)
    assert set(found.choice.keep) == {"first", "ruined"}


def test_a_budget_that_can_not_hold_says_how_close_it_came() -> None:
    """Ranges far too small: whatever is in integers is wrong."""
    good = sensitive.trials("tensorrt", sensitive.network())
    ranges = {name: (low / 1e6, high / 1e6) for name, (low, high) in good.ranges.items()}
    ready = replace(good, ranges=ranges)
    with pytest.raises(GateRefused) as refused:
        hold_budget(ready, sensitive.held_out(ready), 1.0, silent)
    assert refused.value.exit_code == 3
    message = refused.value.message
    assert "--max-drop 1 (0 of 96 images) can't be held: the closest of" in message
    assert "of 4 layers in float" in message
    assert "points" in message


def test_what_lies_between_float_layers_is_float_too(tensorrt: Trials) -> None:
    from tests.exporter.passes.qdq_graphs import CONV, net

    model = ir.from_proto(
        net(
            f"""c1 = {CONV} (x, w1) r1 = Relu (c1) a = AveragePool <kernel_shape=[2, 2]> (r1)
            c2 = {CONV} (a, w2) r2 = Relu (c2) s = Add (r2, a) y = {CONV} (s, w3)"""
        )
    )
    ready = Trials(model, tensorrt.scheme, {}, original=model)
    assert set(ready.layers) == {"c1", "c2", "y"}
    assert ready.with_followers(["c1"]) == {"c1"}
    assert ready.with_followers(["c1", "c2"]) == {"c1", "c2", "a"}, "y reads the Add's result"
    assert ready.with_followers(["c2", "y"]) == {"c2", "y", "s"}, "c1 feeds the pooling"


def test_a_layer_in_float_has_the_weights_it_had_before_recovery(tensorrt: Trials) -> None:
    """Here "recovery" halves every weight, which nobody could take for rounding."""
    model = tensorrt.model.clone()
    for name in ("w_first", "w_ruined", "w_second", "w_head"):
        weight = model.graph.initializers[name]
        weight.const_value = ir.Tensor(weight.const_value.numpy() / 2)
    ready = replace(tensorrt, model=model, original=tensorrt.model)
    images = sensitive.held_out(tensorrt)
    np.testing.assert_array_equal(ready.float_logits(images), tensorrt.float_logits(images))
    np.testing.assert_array_equal(ready.logits(sensitive.MACS, images), ready.float_logits(images))
    alone = ready.logits_alone("second", images) - tensorrt.logits_alone("second", images)
    assert abs(alone).max() > 0.1, "its own is halved"
    restored, inserted = ready.quantize(model, ["ruined"])
    assert restored.applied == ["ruined"]
    assert inserted.applied
    (kept,) = [node for node in model.graph if node.name == "ruined"]
    expected = tensorrt.model.graph.initializers["w_ruined"].const_value.numpy()
    np.testing.assert_array_equal(kept.inputs[1].const_value.numpy(), expected)


def test_the_picture_shows_every_layer(tensorrt: Trials, tmp_path: Path) -> None:
    result = measure(tensorrt, sensitive.held_out(tensorrt), silent)
    draw(result, tmp_path / "layers.svg")
    text = (tmp_path / "layers.svg").read_text()
    for words in ("SQNR of the logits (dB)", "label flips of 96", *sensitive.MACS):
        assert f"<!-- {words}" in text, words
    with pytest.raises(WrongUse, match="which kind of picture"):
        check_picture(tmp_path / "layers.doc")
    with pytest.raises(WrongUse, match="is a file"):
        check_picture(tmp_path / "layers.svg" / "layers.png")


def test_the_picture_takes_the_extremes(tmp_path: Path) -> None:
    """A layer that changes nothing, and one that leaves nothing."""
    layers = (LayerCost("gone", math.inf, 3, 1), LayerCost("same", 0.0, 0, 1))
    result = Sensitivity("cpu", False, 4, layers, {})
    draw(result, tmp_path / "two.svg")
    assert (tmp_path / "two.svg").stat().st_size > 0
    text = json.dumps(result.as_json(), allow_nan=False)
    rows = json.loads(text)["layers"]
    assert [(row["sqnr_db"], row["noise"]) for row in rows] == [(None, None), (None, 0.0)]
