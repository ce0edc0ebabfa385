"""The gate is tested by breaking things: each mutation is caught, where it is, by what it breaks.

A trained network is exported and becomes the baseline; the same export again passes. Then one
thing at a time is broken. The table of what caught what is printed at the end.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner, Result
from onnx import numpy_helper

from benchmarks.gate.figures import FIGURES
from exporter.artifact import folder as artifact
from exporter.cli.main import main
from exporter.passes.fold_batch_norm import FoldBatchNorm
from tests.conftest import striped_images, write_photos
from tests.exporter.networks import trained

pytestmark = pytest.mark.tf

CAUGHT: list[tuple[str, str]] = []
# Of three classes, those that calibration never sees: less than half of them, and more.
POOR: dict[str, tuple[int, ...]] = {"one-missing": (0,), "two-missing": (0, 1)}
GRAPH_FIGURES = ("folds", "ops", "weights", "qdq", "ranges", "warnings", "fusion")


@pytest.fixture(scope="module")
def world(
    keras: ModuleType, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[Path]:
    """The network, its images, its INT8 artefact and the baseline of it."""
    folder = tmp_path_factory.mktemp("gate")
    images, labels = striped_images(192)
    tests, expected = striped_images(96, seed=1)
    for name, missing in (("all", ()), *POOR.items()):
        seen = ~np.isin(labels, missing)
        write_photos(folder / name / "train", images[seen], labels[seen])
        write_photos(folder / name / "test", tests, expected)
    model = trained(keras, images[..., None], labels)
    for place in ("good", "bad"):
        (folder / place).mkdir()
    model.save(folder / "good" / "net.keras")
    variance = model.get_layer("bn_second").moving_variance
    changed = np.array(variance)
    changed[0] *= 3
    variance.assign(changed)
    model.save(folder / "bad" / "net.keras")
    assert export(folder, "base").exit_code == 0
    made = check(folder, "base", "--update", "--data", f"folder:{folder / 'all'}")
    assert made.exit_code == 0, made.output
    yield folder
    plugins = request.config.pluginmanager
    terminal, capture = map(plugins.getplugin, ("terminalreporter", "capturemanager"))
    with capture.global_and_fixture_disabled():  # what a fixture prints is swallowed otherwise
        terminal.write_line("\nWhat was broken, and what caught it:")
        for mutation, by in CAUGHT:
            terminal.write_line(f"  {mutation:34} {by}")


def run(*args: object) -> Result:
    result = CliRunner().invoke(main, [str(arg) for arg in args])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def export(
    world: Path,
    output: str,
    *more: object,
    model: str = "good",
    preprocess: str = "unit",
    data: str = "all",
) -> Result:
    return run(
        *("export", world / model / "net.keras", "--to", "ort", "--precision", "int8"),
        *("--preprocess", preprocess, "--data", f"folder:{world / data}"),
        *("--calibration-images", 48, "--force", "-o", world / output),
        *more,
    )


def check(world: Path, output: str, *more: object) -> Result:
    return run("check", "--baseline", world / "baseline.json", world / output, *more)


def drifts(world: Path, output: str, *more: object) -> tuple[dict[str, str], dict[str, str]]:
    """Check an artefact; return what drifted with the detail, and every figure's verdict."""
    done = check(world, output, "--json", *more)
    (result,) = json.loads(done.stdout)["results"]
    found = {one["figure"]: one for one in result["findings"]}
    assert done.exit_code == (3 if result["drifted"] else 0), done.output
    for name in result["drifted"]:  # the message says it too, not the table alone
        assert f"{name} ({found[name]['rung']}): " in done.stderr
    return (
        {name: found[name]["detail"] for name in result["drifted"]},
        {name: one["verdict"] for name, one in found.items()},
    )


def note(mutation: str, caught: dict[str, str], tells: str) -> None:
    """Add a row to the table: all that drifted, and where, by the figure that tells most."""
    where = f"{FIGURES[tells].rung}: {caught[tells]}"
    CAUGHT.append((mutation, f"check: {', '.join(caught)}; at {where[:100]}"))


def break_graph(world: Path, output: str, change: Callable[[onnx.ModelProto], None]) -> None:
    """Change the baseline's own graph, and seal the artefact as if it had been exported so."""
    folder = world / output
    shutil.copytree(world / "base", folder)
    passport = json.loads((folder / "passport.json").read_text())
    (folder / "passport.json").unlink()
    model = onnx.load(folder / "model.onnx")
    change(model)
    onnx.save(model, folder / "model.onnx")
    artifact.seal(folder, passport)


def edit(model: onnx.ModelProto, name: str, change: Callable[[np.ndarray], np.ndarray]) -> None:
    (tensor,) = [one for one in model.graph.initializer if one.name == name]
    tensor.CopyFrom(numpy_helper.from_array(change(numpy_helper.to_array(tensor).copy()), name))


def node_of(model: onnx.ModelProto, layer: str) -> onnx.NodeProto:
    found = [
        node
        for node in model.graph.node
        if node.op_type == "Conv"
        and any(prop.key == "keras_layer" and prop.value == layer for prop in node.metadata_props)
    ]
    (node,) = found
    return node


def producer(model: onnx.ModelProto, name: str) -> onnx.NodeProto:
    (node,) = [node for node in model.graph.node if name in node.output]
    return node


def test_the_same_export_again_passes_and_every_graph_figure_is_the_same(world: Path) -> None:
    assert export(world, "again").exit_code == 0
    caught, verdicts = drifts(world, "again")
    assert caught == {}
    assert {verdicts[name] for name in GRAPH_FIGURES} == {"same"}
    assert verdicts["accuracy"] == verdicts["labels"] == "same"
    assert verdicts["latency"] == "not compared"


def test_a_perturbed_variance_of_one_batch_norm(world: Path) -> None:
    assert export(world, "variance", model="bad").exit_code == 0
    caught, verdicts = drifts(world, "variance")
    assert "(Keras layer 'second')" in caught["weights"]
    assert "'first'" not in caught["weights"]
    assert "source" in caught
    assert verdicts["folds"] == verdicts["ops"] == "same"
    note("BN variance x3, one channel", caught, "weights")


def test_a_skipped_fold(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = FoldBatchNorm._try_fold
    calls = []

    def skip_the_second(self: FoldBatchNorm, node: Any) -> bool:
        if node.op_type == "Conv":
            calls.append(node)
            if len(calls) == 2:
                return False
        return original(self, node)

    monkeypatch.setattr(FoldBatchNorm, "_try_fold", skip_the_second)
    assert export(world, "unfolded").exit_code == 0
    caught, verdicts = drifts(world, "unfolded")
    assert "2 -> 1 batch norms folded" in caught["folds"]
    assert "second" in caught["weights"]
    assert "'first'" not in caught["weights"]
    assert verdicts["source"] == verdicts["setting"] == "same"
    note("one fold skipped", caught, "folds")


def test_another_preprocessing(world: Path) -> None:
    assert export(world, "signed", preprocess="signed").exit_code == 0
    caught, verdicts = drifts(world, "signed")
    assert '"name": "unit"' in caught["setting"]
    assert '"name": "signed"' in caught["setting"]
    assert verdicts["source"] == verdicts["folds"] == "same"
    note("preprocessing unit -> signed", caught, "setting")


@pytest.mark.parametrize("poor", POOR)
def test_classes_missing_in_calibration(world: Path, poor: str) -> None:
    assert export(world, f"{poor}-int8", data=poor).exit_code == 0
    caught, verdicts = drifts(world, f"{poor}-int8")
    assert "calibration images" in caught["setting"]
    assert ", ".join(f"class {label}: 0" for label in POOR[poor]) in caught["warnings"]
    assert "%" in caught["ranges"]
    assert verdicts["folds"] == verdicts["ops"] == verdicts["qdq"] == "same"
    note(f"{len(POOR[poor])} of 3 classes not calibrated on", caught, "ranges")


def test_a_stale_calibration_is_refused_before_the_gate(world: Path) -> None:
    stale = world / "base" / "calibration.json"
    refused = export(world, "stale", "--calibration", stale, model="bad")
    assert refused.exit_code == 2
    assert "the calibration doesn't match this network: its graph is" in refused.stderr
    assert not (world / "stale").exists()
    CAUGHT.append(("stale calibration file", "refused by export: " + refused.stderr[-150:-60]))

    shutil.copytree(world / "base", world / "swapped-file")
    calibration = world / "swapped-file" / "calibration.json"
    calibration.write_text(calibration.read_text() + "\n")
    refused = check(world, "swapped-file")
    assert refused.exit_code == 1
    assert "calibration.json doesn't match the passport" in refused.stderr
    CAUGHT.append(("calibration file put in later", "refused by check: SHA-256 differs"))


def test_an_activation_scale_off_by_5_percent(world: Path) -> None:
    names = {}

    def change(model: onnx.ModelProto) -> None:
        dequantize = producer(model, node_of(model, "second").input[0])
        quantize = producer(model, dequantize.input[0])
        names["tensor"] = quantize.input[0]
        edit(model, quantize.input[1], lambda scale: (scale * 1.05).astype(np.float32))

    break_graph(world, "scale", change)
    caught, verdicts = drifts(world, "scale", "--graph-only")
    # Its integer biases are in units of that scale, and are off with it: onnxruntime does not fuse
    # a convolution whose bias has another scale than its input times its weight.
    assert set(caught) <= {"ranges", "weights", "fusion"}
    assert caught["ranges"].startswith(f"{names['tensor']}: ")
    assert "relu_first" in names["tensor"]  # named after the Keras layer that gives it
    assert "(5.0%)" in caught["ranges"]
    assert ";" not in caught["ranges"]
    assert verdicts["accuracy"] == "not compared"
    note("activation scale x1.05", caught, "ranges")


def test_a_weight_scale_off_by_5_percent(world: Path) -> None:
    def change(model: onnx.ModelProto) -> None:
        dequantize = producer(model, node_of(model, "first").input[1])
        edit(model, dequantize.input[1], lambda scale: (scale * 1.05).astype(np.float32))

    break_graph(world, "weight-scale", change)
    caught, _ = drifts(world, "weight-scale", "--graph-only")
    assert {"weights"} <= set(caught) <= {"weights", "fusion"}  # fusion: as above
    assert "(Keras layer 'first'): weight moved by 5.00% of its norm" in caught["weights"]
    assert "'second'" not in caught["weights"]
    note("weight scale x1.05", caught, "weights")


def test_swapped_channels(world: Path) -> None:
    def change(model: onnx.ModelProto) -> None:
        dequantize = producer(model, node_of(model, "second").input[1])
        edit(model, dequantize.input[0], lambda weight: weight[[1, 0, *range(2, len(weight))]])

    break_graph(world, "channels", change)
    caught, _ = drifts(world, "channels")
    assert "(Keras layer 'second'): weight moved by" in caught["weights"]
    assert "'first'" not in caught["weights"]
    assert {"source", "setting", "folds", "ops", "ranges", "fusion"}.isdisjoint(caught)
    note("two channels swapped", caught, "weights")
