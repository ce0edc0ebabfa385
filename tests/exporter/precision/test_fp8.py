"""FP8 from the command line: what is simulated, what stays in float, what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import onnx
import pytest
from click.testing import CliRunner, Result

from calibration.errors import CalibrationError
from exporter import pipeline, targets
from exporter.artifact.folder import Artifact, read
from exporter.cli.main import main
from exporter.config import ExportConfig
from exporter.errors import WrongUse
from tests.exporter import networks

pytestmark = pytest.mark.tf


def residual(keras: ModuleType) -> Any:
    """A 7x7 stem, a residual block of 16 channels with a grouped convolution, and a dense layer."""
    keras.utils.set_random_seed(0)
    layers = keras.layers
    x = inputs = keras.Input((16, 16, 1), name="input")
    x = layers.Conv2D(16, 7, padding="same", name="stem")(x)
    x = layers.BatchNormalization(name="bn_stem")(x)
    x = shortcut = layers.MaxPooling2D(name="pool")(layers.ReLU()(x))
    x = layers.ReLU()(layers.Conv2D(16, 3, padding="same", name="first")(x))
    x = layers.ReLU()(layers.Conv2D(16, 3, padding="same", groups=4, name="grouped")(x))
    x = layers.Conv2D(16, 1, name="second")(x)
    x = layers.ReLU()(layers.Add(name="add")([x, shortcut]))
    x = layers.GlobalAveragePooling2D(name="mean")(x)
    model = keras.Model(inputs, layers.Dense(3, name="logits")(x))
    return networks.shake_statistics(model)


def export(keras: ModuleType, folder: Path, data: str, **options: Any) -> Artifact:
    path = folder / "net.keras"
    if not path.exists():
        networks.save(residual(keras), path)
    fields = {"target": "onnx", "precision": "fp8", "preprocess": "unit", "calibration_images": 48}
    output = folder / options.pop("output", "out")
    return pipeline.export(
        ExportConfig(str(path), output=output, data=data, **{**fields, **options})
    )


def run(*args: object) -> Result:
    result = CliRunner().invoke(main, [str(arg) for arg in args], env={"COLUMNS": "200"})
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def dtypes(artifact: Artifact) -> set[int]:
    graph = onnx.load(artifact.file("model.onnx")).graph
    return {each.data_type for each in graph.initializer}


def test_the_artefact_and_its_simulation(keras: ModuleType, tmp_path: Path, data: str) -> None:
    from benchmarks.accuracy import measure as accuracy
    from benchmarks.gate.facts import key_of

    artifact = export(keras, tmp_path, data)
    passport = artifact.passport
    assert passport["precision"] == "fp8"
    assert "int8" not in passport
    assert artifact.quantization is passport["fp8"]
    assert (passport["fp8"]["scheme"], passport["fp8"]["calibrator"]) == ("fp8", "mse")
    assert "fp16" in passport, "FP16 is around it, without being asked for"
    assert {onnx.TensorProto.FLOAT8E4M3FN, onnx.TensorProto.FLOAT16} <= dtypes(artifact)
    kept = [each["reason"] for each in passport["passes"]["insert_qdq"]["kept"]]
    assert len(kept) == 2
    assert kept[0].startswith("a 7x7 filter is over 32 weights")
    assert kept[1].startswith("a convolution in 4 groups")
    assert passport["graph"]["opset"] == 19
    assert passport["passes"]["raise_opset"]["applied"] == 1
    assert key_of(artifact) == "net/onnx/fp8+fp16/fp8/8-bit"
    assert targets.simulates(artifact)
    _, row = accuracy.evaluate([artifact], data)
    assert row.against_keras is not None
    # One rounding to E4M3 is off by 2**-4 at most, 2**-5.4 in the mean of squares; three layers.
    assert 0 < row.against_keras.max_relative_error < 0.15
    assert "simulated" in row.engine


def test_a_calibration_serves_again_but_not_the_other_precision(
    keras: ModuleType, tmp_path: Path, data: str
) -> None:
    first = export(keras, tmp_path, data, output="fp8")
    kept = first.file("calibration.json")
    again = export(keras, tmp_path, data, calibration=kept, output="again")
    assert again.file("model.onnx").read_bytes() == first.file("model.onnx").read_bytes()
    integers = export(keras, tmp_path, data, precision="int8", output="int8")
    with pytest.raises(CalibrationError, match="made for INT8 and has no ranges for FP8"):
        export(keras, tmp_path, data, calibration=integers.file("calibration.json"), output="no")


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"recovery": ("equalize",)}, "--recovery equalize and --precision fp8 contradict"),
        ({"calibrator": "entropy"}, "--calibrator entropy and --precision fp8 contradict"),
        ({"scheme": "tensorrt"}, "--scheme tensorrt is for INT8, and --precision is fp8"),
        ({"precision": "int8", "scheme": "fp8"}, "--scheme fp8 is for FP8, and --precision is int"),
        ({"weight_bits": 7}, "--weight-bits is for INT8, and --precision is fp8"),
        ({"target": "ort"}, "target 'ort' does not support fp8"),
        ({"target": "openvino"}, "target 'openvino' does not support fp8"),
    ],
)
def test_refused_before_the_work(tmp_path: Path, asked: Any, message: str) -> None:
    """There is no such model, so nothing was loaded before the refusal."""
    fields = {"target": "onnx", "precision": "fp8", **asked}
    with pytest.raises(WrongUse, match=message):
        pipeline.export(ExportConfig("no-such-model", output=tmp_path / "out", **fields))


def test_ways_of_recovery_that_suit_fp8(keras: ModuleType, tmp_path: Path, data: str) -> None:
    artifact = export(keras, tmp_path, data, recovery=("rounding", "bias"))
    assert artifact.passport["fp8"]["recovery"] == {"rounding": 3, "bias": 3}


def test_fp32_around_it(keras: ModuleType, tmp_path: Path, data: str) -> None:
    artifact = export(keras, tmp_path, data, rest="fp32")
    assert "fp16" not in artifact.passport
    assert onnx.TensorProto.FLOAT16 not in dtypes(artifact)
    assert onnx.TensorProto.FLOAT8E4M3FN in dtypes(artifact)


def test_a_budget_keeps_layers_in_float(keras: ModuleType, tmp_path: Path, data: str) -> None:
    artifact = export(keras, tmp_path, data, max_drop=100.0, held_out_images=32)
    budget = artifact.passport["fp8"]["max_drop"]
    assert (budget["points"], budget["kept"]) == (100.0, [])


def test_sensitivity_and_the_ladder(keras: ModuleType, tmp_path: Path, data: str) -> None:
    artifact = export(keras, tmp_path, data)
    given = ("--preprocess", "unit", "--data", data, "--images", 32, "--calibration-images", 48)
    done = run("sensitivity", tmp_path / "net.keras", "--scheme", "fp8", *given, "--json")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert (found["scheme"], len(found["layers"])) == ("fp8", 3)
    assert all(0 < layer["noise"] < 0.1 for layer in found["layers"])
    done = run("evaluate", artifact.path, "--data", data, "--ladder", "-o", tmp_path / "drift")
    assert done.exit_code == 0, done.output
    shown = run("inspect", artifact.path)
    assert "scheme fp8, mse on 48 training images, 8 bits" in shown.stdout
    assert "1: a 7x7 filter is over 32 weights: no FP8 kernel" in shown.stdout


def test_a_plan_for_ada_and_blackwell(keras: ModuleType, tmp_path: Path, data: str) -> None:
    pytest.importorskip("tensorrt_rtx", reason="pip install 'exporter[rtx]'")
    artifact = export(keras, tmp_path, data, target="trt-rtx")
    engine = artifact.passport["engine"]
    assert engine["compute_capabilities"] == ["8.9", "12.0"]
    assert engine["hardware_compatibility"] == "none"
    assert artifact.passport["trt-rtx"]["executed"] == "not run on a GPU"
    version = ("--tensorrt", engine["tensorrt"])
    ada = run("doctor", artifact.path, "--for", "rtx-4090", *version)
    assert ada.exit_code == 0, ada.output
    ampere = run("doctor", artifact.path, "--for", "rtx-3060", *version)
    assert ampere.exit_code == 3
    assert "FP8: GeForce RTX 3060, compute capability 8.6, has no FP8" in ampere.stderr


def test_a_graph_handed_over_says_which_machine_can_not_compile_it(
    keras: ModuleType, tmp_path: Path, data: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from exporter.targets import trt

    monkeypatch.setattr(trt, "MODULE", "tensorrt_that_is_not_here")
    artifact = export(keras, tmp_path, data, target="trt")
    assert read(artifact.path).passport["trt"]["compiled"] is False
    refused = run("doctor", artifact.path, "--for", "jetson-orin-jp6.2")
    assert refused.exit_code == 3
    assert "(compute capability 8.7) has no FP8" in refused.stderr
    assert run("doctor", artifact.path, "--for", "jetson-thor-jp7.1").exit_code == 4


def test_the_rows_that_do_fp8() -> None:
    names = [row.name for row in targets.TARGETS.values() if "fp8" in row.precisions]
    assert names == ["onnx", "trt", "trt-rtx"]


def test_what_a_dla_and_an_older_gpu_lack(tmp_path: Path) -> None:
    given = ("--precision", "fp8", "-o", tmp_path / "out")
    dla = run("export", "no-such", "--to", "trt", "--dla-core", 0, "--batch", 1, *given)
    assert dla.exit_code == 2
    assert "a DLA computes only in FP16 and INT8, but --precision is fp8" in dla.stderr
    old = run("export", "no-such", "--to", "trt-rtx", "--compute-capability", "8.6", *given)
    assert old.exit_code == 2
    assert "--compute-capability 8.6 and --precision fp8 contradict each other" in old.stderr
