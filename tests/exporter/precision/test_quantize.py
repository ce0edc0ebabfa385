"""INT8 from the command line: both schemes, what they refuse, what the artefact says."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import numpy as np
import onnx
import pytest

from calibration.errors import CalibrationError
from calibration.params import load
from exporter import pipeline, targets
from exporter.artifact.folder import Artifact
from exporter.config import ExportConfig
from exporter.data import calibration_images
from exporter.errors import ConversionError, Missing, WrongUse
from exporter.machine import cpus
from exporter.precision import quantize
from tests.exporter import networks

pytestmark = pytest.mark.tf


def export(keras: ModuleType, tmp_path: Path, data: str, **options: Any) -> Artifact:
    path = tmp_path / "plain.keras"
    if not path.exists():
        networks.save(networks.plain(keras), path)
    output = tmp_path / options.pop("output", "out")
    fields = {"target": "ort", "precision": "int8", "preprocess": "unit", "calibration_images": 48}
    return pipeline.export(
        ExportConfig(str(path), output=output, data=data, **{**fields, **options})
    )


@pytest.mark.parametrize(
    ("target", "scheme"), [("ort", "cpu"), ("onnx", "tensorrt"), ("openvino", "cpu")]
)
def test_int8_stays_close_to_keras(
    keras: ModuleType, tmp_path: Path, data: str, target: str, scheme: str
) -> None:
    """Eight bits resolve 1/255 of a range; through three layers a few percent may be lost."""
    from benchmarks.accuracy import measure as accuracy

    pytest.importorskip(targets.lookup(target).needs)
    artifact = export(keras, tmp_path, data, target=target)
    assert artifact.passport["int8"]["scheme"] == scheme
    assert artifact.passport["int8"]["calibration_images"] == 48
    own = {"model.xml", "model.bin"} if target == "openvino" else set()
    assert set(artifact.passport["files"]) == {"model.onnx", "calibration.json"} | own
    assert artifact.passport["graph"]["ops"]["QuantizeLinear"] >= 2
    assert artifact.passport["check"]["max_relative_error"] < 1e-5, "that is FP32's"
    _, row = accuracy.evaluate([artifact], data)
    assert row.against_keras is not None
    assert 0 < row.against_keras.max_relative_error < 0.05
    assert ("simulated" in row.engine) == (target == "onnx")


def test_a_decoder_has_one_resize_per_upsampling_and_repeats_integers(
    keras: ModuleType, tmp_path: Path, data: str
) -> None:
    """Keras 3 makes 16 nodes of UpSampling2D (nearest), which would all stay float."""
    networks.save(networks.decoder(keras), tmp_path / "plain.keras")
    artifact = export(keras, tmp_path, data)
    ops = artifact.passport["graph"]["ops"]
    assert ops["Resize"] == 2
    assert not {"Tile", "Shape", "Slice", "Reshape"} & ops.keys()
    assert ops["Transpose"] == 1, "the one at the input"
    assert artifact.passport["check"]["label_flips"] == 0
    model = onnx.load(artifact.file("model.onnx"))
    readers = {name: node for node in model.graph.node for name in node.input}
    nearest, _ = (node for node in model.graph.node if node.op_type == "Resize")
    assert nearest.input[0].endswith("_dequantized")
    assert readers[nearest.output[0]].op_type == "QuantizeLinear"


def test_a_calibration_can_be_used_again_but_not_elsewhere(
    keras: ModuleType, tmp_path: Path, data: str
) -> None:
    first = export(keras, tmp_path, data)
    kept = first.file("calibration.json")
    again = export(keras, tmp_path, data, calibration=kept, output="again")
    assert again.file("model.onnx").read_bytes() == first.file("model.onnx").read_bytes()
    with pytest.raises(CalibrationError, match="preprocessing is"):
        export(keras, tmp_path, data, calibration=kept, output="raw", preprocess="raw")
    networks.save(
        networks.shake_statistics(networks.plain(keras), seed=9), tmp_path / "plain.keras"
    )
    with pytest.raises(CalibrationError, match="graph is"):
        export(keras, tmp_path, data, calibration=kept, output="other")
    assert not any((tmp_path / name).exists() for name in ("raw", "other"))


@pytest.mark.parametrize(("bits", "vnni"), [(7, True), (8, False), (None, False), (None, True)])
def test_weights_have_the_bits_asked_for_or_those_this_cpu_sums_right(
    keras: ModuleType,
    tmp_path: Path,
    data: str,
    monkeypatch: pytest.MonkeyPatch,
    bits: Literal[7, 8] | None,
    vnni: bool,
) -> None:
    """By hand: of 7 bits the largest magnitude is 64, of 8 127."""
    monkeypatch.setattr(quantize, "lacks_vnni", lambda: not vnni)
    artifact = export(keras, tmp_path, data, weight_bits=bits)
    largest = 64 if bits == 7 or (bits is None and not vnni) else 127
    assert artifact.passport["int8"]["reduce_range"] is (largest == 64)
    constants = onnx.load(artifact.file("model.onnx")).graph.initializer
    arrays = [onnx.numpy_helper.to_array(one) for one in constants]
    found = [abs(array.astype(int)).max() for array in arrays if array.dtype == np.int8]
    assert found
    assert {int(amax) for amax in found if amax} == {largest}


@pytest.mark.parametrize("asked", [{"recovery": ("bias",)}, {"max_drop": 1.0}])
def test_nothing_is_chosen_by_sums_that_saturate_here(
    keras: ModuleType, tmp_path: Path, data: str, monkeypatch: pytest.MonkeyPatch, asked: Any
) -> None:
    monkeypatch.setattr(cpus, "lacks_vnni", lambda: True)
    with pytest.raises(
        Missing, match="can't run 8-bit weights here: this CPU has no VNNI"
    ) as raised:
        export(keras, tmp_path, data, weight_bits=8, **asked)
    assert "--weight-bits 7" in str(raised.value.hint)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("asked", [{}, {"calibration_images": "auto"}, {"max_drop": 1.0}])
def test_a_network_of_a_users_is_not_measured_on_images_of_ours(
    keras: ModuleType, tmp_path: Path, asked: Any
) -> None:
    """It takes one channel, as Fashion-MNIST has: no reason to take it for its data."""
    networks.save(networks.plain(keras), tmp_path / "plain.keras")
    config = ExportConfig(
        str(tmp_path / "plain.keras"),
        "ort",
        tmp_path / "out",
        precision="int8",
        preprocess="unit",
        **asked,
    )
    with pytest.raises(WrongUse, match=r"plain.* needs training images to be measured on"):
        pipeline.export(config)
    assert not (tmp_path / "out").exists()


def test_weights_of_7_bits_are_for_cpus(keras: ModuleType, tmp_path: Path, data: str) -> None:
    with pytest.raises(
        WrongUse, match="7-bit weights are for CPUs without VNNI, but the scheme is tens"
    ):
        export(keras, tmp_path, data, target="onnx", weight_bits=7)
    with pytest.raises(WrongUse, match="--weight-bits is for INT8, and --precision is fp32"):
        export(keras, tmp_path, data, precision="fp32", weight_bits=7)
    with pytest.raises(WrongUse, match="weight-bits must be 7 or 8, not 5"):
        export(keras, tmp_path, data, weight_bits=5)


def test_auto_stops_when_ranges_settle_and_says_so(
    keras: ModuleType, tmp_path: Path, data: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Any two doublings settle at a tolerance of 1: 16, 32 and 64 of the 96 images."""
    monkeypatch.setattr(calibration_images, "AUTO_TOLERANCE", 1.0)
    artifact = export(keras, tmp_path, data, calibration_images="auto", calibrator="minmax")
    int8 = artifact.passport["int8"]
    assert (int8["calibration_images"], int8["stopped_early"]) == (64, True)
    assert [row["images"] for row in int8["convergence"]] == [32, 64]
    params = load(artifact.file("calibration.json"))
    assert [snapshot.images for snapshot in params.convergence] == [16, 32, 64]
    assert params.convergence[-1].amax == {n: t.amax for n, t in params.tensors.items()}
    change, tensor = params.convergence[2].most_changed(params.convergence[1])
    assert int8["convergence"][1] == {"images": 64, "change": round(change, 4), "tensor": tensor}


def test_auto_that_never_settles_uses_all_there_are(
    keras: ModuleType, tmp_path: Path, data: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calibration_images, "AUTO_TOLERANCE", -1.0)
    int8 = export(keras, tmp_path, data, calibration_images="auto").passport["int8"]
    assert (int8["calibration_images"], int8["stopped_early"]) == (96, False)


def test_a_batch_size_of_the_network_s_own(keras: ModuleType, tmp_path: Path, data: str) -> None:
    """48 images are nine batches of 5 and one of 3, which is filled up but counts as 3."""
    from benchmarks.accuracy import measure as accuracy

    inputs = keras.Input((16, 16, 1), batch_size=5, name="input")
    networks.save(keras.Model(inputs, networks.plain(keras)(inputs)), tmp_path / "plain.keras")
    artifact = export(keras, tmp_path, data)
    assert artifact.passport["graph"]["inputs"][0]["shape"][0] == 5
    assert artifact.passport["int8"]["calibration_images"] == 48
    tensors = load(artifact.file("calibration.json")).tensors
    assert tensors["input"].count == 48 * 16 * 16
    _, row = accuracy.evaluate([artifact], data)
    assert row.images == 96
    assert row.against_keras is not None
    assert 0 < row.against_keras.max_relative_error < 0.05


@pytest.mark.parametrize("count", [0, "many"])
def test_a_wrong_number_of_images_is_refused(tmp_path: Path, count: Any) -> None:
    with pytest.raises(WrongUse, match="auto or at least 1"):
        ExportConfig("resnet18", target="ort", output=tmp_path, calibration_images=count)


def test_test_images_never_calibrate(keras: ModuleType, tmp_path: Path, tiny_data: str) -> None:
    """An .npz has one set, which serves as training and as test set."""
    with pytest.raises(WrongUse, match="0 images to calibrate on that are not test images"):
        export(keras, tmp_path, tiny_data)
    assert not (tmp_path / "out").exists()


def test_int8_options_without_int8_are_a_conflict(tmp_path: Path) -> None:
    with pytest.raises(WrongUse, match="--scheme cpu is for INT8"):
        ExportConfig("resnet18", target="ort", output=tmp_path / "out", scheme="cpu")


def test_the_calibration_file_is_readable_json(
    keras: ModuleType, tmp_path: Path, data: str
) -> None:
    artifact = export(keras, tmp_path, data)
    content = json.loads(artifact.file("calibration.json").read_text())
    assert content["images"] == 48
    assert all(tensor["scale"] > 0 for tensor in content["tensors"].values())
    assert np.isfinite([tensor["high"] for tensor in content["tensors"].values()]).all()


def test_recovery_is_done_and_recorded(keras: ModuleType, tmp_path: Path, data: str) -> None:
    methods = ("bias", "equalize", "rounding")
    artifact = export(keras, tmp_path, data, recovery=methods)
    # One convolution, pooling, one dense layer: a pair, and two layers.
    assert artifact.passport["int8"]["recovery"] == {"equalize": 1, "rounding": 2, "bias": 2}
    kept = artifact.file("calibration.json")
    again = export(keras, tmp_path, data, recovery=methods, calibration=kept, output="again")
    assert again.file("model.onnx").read_bytes() == artifact.file("model.onnx").read_bytes()
    with pytest.raises(CalibrationError, match="graph is"):  # not equalised, so another graph
        export(keras, tmp_path, data, calibration=kept, output="other")


def test_a_network_that_takes_no_image_is_wrong_use(keras: ModuleType, tmp_path: Path) -> None:
    layers = [keras.Input((4,)), keras.layers.Dense(3)]
    path = networks.save(keras.Sequential(layers), tmp_path / "table.keras")
    config = ExportConfig(path, "ort", tmp_path / "out", precision="int8", preprocess="raw")
    with pytest.raises(WrongUse, match="doesn't take one image"):
        pipeline.export(config)


def test_a_network_with_nothing_to_quantize_is_refused(
    keras: ModuleType, tmp_path: Path, data: str
) -> None:
    inputs = keras.Input((16, 16, 1))
    x = keras.layers.GlobalAveragePooling2D()(inputs)
    path = networks.save(keras.Model(inputs, x), tmp_path / "mine.keras")
    fields: dict[str, Any] = {"precision": "int8", "preprocess": "unit", "calibration_images": 16}
    with pytest.raises(ConversionError, match=r"nothing in .*mine\.keras can be quantized"):
        pipeline.export(ExportConfig(path, "ort", tmp_path / "out", data=data, **fields))
