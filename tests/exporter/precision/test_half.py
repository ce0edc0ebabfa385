"""FP16 from the command line: what is measured, what it refuses, what the artefact says."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from exporter import pipeline, targets
from exporter.artifact.folder import Artifact
from exporter.config import ExportConfig
from exporter.errors import ConversionError, WrongUse
from exporter.precision import half, recovery
from exporter.precision.half import NOT_MEASURED, Measured, compare_simulated, to_half
from tests.exporter import networks
from tests.exporter.passes.qdq_graphs import CONV, net


def config(**options: Any) -> ExportConfig:
    return ExportConfig("resnet18", **{"target": "onnx", "output": Path("out"), **options})


@pytest.mark.parametrize(
    ("options", "both"),
    [
        ({"io": "fp16"}, ("--io fp16", "--precision fp32")),
        ({"precision": "int8", "rest": "fp32", "io": "fp16"}, ("--io fp16", "--rest fp32")),
        ({"precision": "fp16", "rest": "fp16"}, ("--rest", "--precision is fp16")),
    ],
)
def test_conflicts_name_both_sides(options: dict[str, Any], both: tuple[str, str]) -> None:
    with pytest.raises(WrongUse) as refused:
        config(**options)
    assert all(side in refused.value.message for side in both)


def test_who_gets_fp16() -> None:
    plain, ort = targets.lookup("onnx"), targets.lookup("ort")
    assert plain.types_half(config(precision="fp16"))
    assert not plain.types_half(config(precision="int8"))
    assert plain.types_half(config(precision="int8", rest="fp16"))
    with pytest.raises(WrongUse, match="target 'ort' does not support fp16"):
        ort.types_half(config(target="ort", precision="int8", rest="fp16"))
    with pytest.raises(WrongUse, match="leaves the rest of an INT8 graph in FP32"):
        plain.types_half(config(precision="int8", io="fp16"))


def test_scheme_of_the_cpu_with_fp16_is_a_conflict() -> None:
    with pytest.raises(WrongUse, match="contradict each other"):
        targets.lookup("onnx").types_half(config(precision="int8", scheme="cpu", rest="fp16"))


def test_overflow_that_was_not_measured_is_found_by_running() -> None:
    typed, model = _typed(net(f"c = {CONV} (x, w1) y = {CONV} (c, w2)", w2=np.full((4, 4, 3, 3), 6e4)))  # fmt: skip # noqa: E501
    with pytest.raises(ConversionError, match="not finite"):
        compare_simulated(model, typed, [{"x": np.full((1, 4, 8, 8), 60, np.float32)}])


def test_an_input_beyond_fp16_is_refused() -> None:
    graph = ir.from_proto(net(f"y = {CONV} (x, w1)"))
    with pytest.raises(WrongUse, match="input 'x' reaches 7e\\+04"):
        to_half(graph, Measured({"x": 7e4}, 1), "fp16")


def _typed(model: onnx.ModelProto) -> tuple[bytes, bytes]:
    graph = ir.from_proto(model)
    to_half(graph, Measured({}, 0), "fp32")
    return ir.to_proto(graph).SerializeToString(), model.SerializeToString()


def export(keras: ModuleType, tmp_path: Path, **options: Any) -> Artifact:
    path = networks.save(networks.plain(keras), tmp_path / "plain.keras")
    fields = {"target": "onnx", "precision": "fp16", "calibration_images": 32}
    return pipeline.export(ExportConfig(path, output=tmp_path / "out", **{**fields, **options}))


@pytest.mark.tf
@pytest.mark.parametrize("options", [{}, {"io": "fp16"}, {"precision": "int8", "rest": "fp16"}])
def test_an_export_stays_close_to_keras(
    keras: ModuleType, tmp_path: Path, data: str, options: dict[str, Any]
) -> None:
    from benchmarks.accuracy import measure as accuracy

    artifact = export(keras, tmp_path, data=data, preprocess="unit", **options)
    passport = artifact.passport
    assert passport["fp16"]["measured_on_images"] == 32
    assert passport["fp16"]["warnings"] == []
    assert passport["fp16"]["simulated_against_untyped"]["max_relative_error"] > 0
    (kept,) = passport["passes"]["to_fp16"]["kept"]
    assert "mean" in kept["reason"]
    dtypes = {port["dtype"] for port in (*passport["graph"]["inputs"], *passport["graph"]["outputs"])}  # fmt: skip # noqa: E501
    assert dtypes == {"FLOAT16" if options.get("io") else "FLOAT"}
    assert passport["graph"]["opset"] == 19
    assert targets.simulates(artifact)
    _, row = accuracy.evaluate([artifact], data)
    assert "simulated" in row.engine
    assert row.against_keras is not None
    # FP16: five tensors rounded by 2**-11 each, and weights; INT8: as in test_quantize.
    limit = 0.05 if options.get("precision") == "int8" else 6 * 2.0**-10
    assert 0 < row.against_keras.max_relative_error < limit


@pytest.mark.tf
def test_without_data_the_passport_says_so(keras: ModuleType, tmp_path: Path) -> None:
    artifact = export(keras, tmp_path)
    assert artifact.passport["fp16"]["measured_on_images"] == 0
    assert artifact.passport["fp16"]["warnings"] == [NOT_MEASURED]
    with targets.open_artifact(artifact) as runner:
        logits = runner.infer({"input": np.zeros((2, 16, 16, 1), np.float32)})["logits"]
    assert logits.dtype == np.float32


def test_a_network_in_half_precision_is_refused_not_passed_through() -> None:
    model = net("h = Cast <to = 10> (x) c = Conv (h, p) y = Cast <to = 1> (c)")
    (weight,) = model.graph.initializer
    array = onnx.numpy_helper.to_array(weight).astype(np.float16)
    weight.CopyFrom(onnx.numpy_helper.from_array(array, "p"))
    with pytest.raises(WrongUse, match="computes in half precision already, first in h"):
        to_half(ir.from_proto(model), Measured({}, 0), "fp32")


def test_nothing_in_fp16_is_a_request_not_kept() -> None:
    graph = ir.from_proto(net("y = Softmax (x)"))
    with pytest.raises(ConversionError, match="nothing in the graph can be FP16: y stays"):
        to_half(graph, Measured({}, 0), "fp32")


@pytest.mark.tf
def test_fp16_is_measured_on_what_equalisation_left(
    keras: ModuleType, tmp_path: Path, data: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It changes activations and keeps their names: magnitudes from before would be of others."""
    done: list[str] = []
    equalize, measure = recovery.before_calibration, half.measure
    monkeypatch.setattr(
        recovery, "before_calibration", lambda *a: (done.append("equalize"), equalize(*a))[1]
    )
    monkeypatch.setattr(half, "measure", lambda *a: (done.append("measure"), measure(*a))[1])
    options = {"precision": "int8", "rest": "fp16", "recovery": ("equalize",)}
    export(keras, tmp_path, data=data, preprocess="unit", **options)
    assert done == ["equalize", "measure"]
