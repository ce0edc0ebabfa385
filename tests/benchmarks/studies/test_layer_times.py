"""Times by layer: every layer is found again in what an engine runs; sums by hand."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from click.testing import CliRunner

from benchmarks.drift.linear_layers import Linear, linear_layers, name_layers
from benchmarks.studies import layer_times, measured_table, peak_probe
from benchmarks.studies.layer_times import OUTSIDE, Share, markdown, profile, shares
from exporter import pipeline
from exporter.artifact import folder as artifact
from exporter.config import ExportConfig
from exporter.errors import ExporterError, WrongUse
from tests.exporter import networks
from tests.exporter.engine_files import artefact

PEAKS = {name: {"multiply_adds_per_s": 1e9, "probe": "a probe"} for name in ("fp32", "int8")}
LINEARS = {
    "a": Linear(1_000_000, 300, "3x3 to 4x5x5", ("a",)),
    "b": Linear(1_000_000, 300, "3x3 to 4x5x5", ("b",)),
}


def node(name: str, op: str, ms: float, linear: str | None = None) -> dict[str, Any]:
    return {"name": name, "op": op, "ms": ms, "linear": linear}


def residual(keras: ModuleType) -> Any:
    """A stem, a block with a shortcut, pooling and a dense layer."""
    layers = keras.layers
    given = keras.Input((16, 16, 1), name="input")

    def conv(x: Any, size: int, stride: int = 1) -> Any:
        x = layers.Conv2D(8, size, stride, padding="same", use_bias=False)(x)
        return layers.BatchNormalization()(x)

    stem = layers.ReLU()(conv(given, 3))
    body = conv(layers.ReLU()(conv(stem, 3, 2)), 3)
    joined = layers.ReLU()(layers.Add()([body, conv(stem, 1, 2)]))
    pooled = layers.GlobalAveragePooling2D()(joined)
    return networks.shake_statistics(keras.Model(given, layers.Dense(3, name="logits")(pooled)))


def exported(place: Path, target: str, precision: str, keras: ModuleType, data: str) -> Path:
    if target == "openvino" and importlib.util.find_spec("openvino") is None:
        pytest.skip("OpenVINO is not installed: pip install '.[openvino]'")
    config = ExportConfig(
        networks.save(residual(keras), place / "net.keras"),
        target,
        place / "out",
        precision=precision,  # type: ignore[arg-type]
        preprocess="unit",
        data=data,
        calibration_images=32,
    )
    return pipeline.export(config).path


@pytest.mark.tf
@pytest.mark.parametrize("precision", ["fp32", "int8"])
@pytest.mark.parametrize("target", ["ort", "openvino"])
def test_every_layer_is_found_in_what_runs(
    keras: ModuleType,
    tmp_path: Path,
    data: str,
    target: str,
    precision: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(layer_times, "BLOCKS", 2)
    monkeypatch.setattr(layer_times, "CALLS", 3)
    path = exported(tmp_path, target, precision, keras, data)
    found = profile(str(path), batch=2, threads=1, cores=())
    linears = [one["linear"] for one in found["nodes"] if one["linear"]]
    assert sorted(linears) == sorted(linear_layers(artifact.read(path)))
    assert len(linears) == 5
    assert all(one["ms"] >= 0 for one in found["nodes"])
    assert sum(one["ms"] for one in found["nodes"]) > 0
    assert found["call_ms"] > 0


@pytest.mark.parametrize(
    ("names", "ok"),
    [
        (["a_token_3", "b/WithoutBiases", "pool"], True),
        (["a_quant", "b_nchwc"], True),
        (["a", "pool"], False),
        (["ab", "b"], False),
    ],
)
def test_a_layer_that_is_not_there_is_an_error(names: list[str], ok: bool) -> None:
    if ok:
        assert list(name_layers(names, LINEARS).values()) == ["a", "b"]
    else:
        with pytest.raises(ExporterError, match="does not say how long it takes in"):
            name_layers(names, LINEARS)


def test_two_layers_are_not_one_node() -> None:
    both = {"a": LINEARS["a"], "b": Linear(1, 1, "dense", ("a",))}
    with pytest.raises(ExporterError, match="in b"):
        name_layers(["a"], both)


def test_shares_by_hand() -> None:
    nodes = [node("x", "Conv", 3.0, "a"), node("y", "Conv", 5.0, "b"), node("p", "Pool", 1.0)]
    # Two million multiply-adds of four images at a billion a second: 8 ms at the peak.
    rows = shares({"call_ms": 10.0, "nodes": nodes}, LINEARS, 4, 1e9, 1)
    assert rows == [
        Share("Pool", 1, 1.0),
        Share(OUTSIDE, 0, 1.0),
        Share("3x3 to 4x5x5", 2, 8.0, 8.0, 600),
    ]


def test_a_gpus_artefact_is_refused(tmp_path: Path) -> None:
    folder = str(artefact(tmp_path / "a"))
    with pytest.raises(WrongUse, match="is for trt"):
        profile(folder, 1, 1, ())


@pytest.mark.tf
def test_the_command(
    keras: ModuleType, tmp_path: Path, data: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In processes of its own, as a reader would run it; the peak by hand."""
    path, output = exported(tmp_path, "ort", "int8", keras, data), tmp_path / "times.json"
    monkeypatch.setattr(peak_probe, "probe_all", lambda *_: PEAKS)
    monkeypatch.setattr(measured_table, "WORK", tmp_path / "work")
    asked = [str(path), "--batch", "1,2", "--threads", "1", "-o", str(output)]
    done = CliRunner().invoke(layer_times.main, asked)
    assert done.exit_code == 0, done.output
    report = json.loads(output.read_text())
    assert [result["batch"] for result in report["results"]] == [1, 2]
    for result in report["results"]:
        assert sum(row["ms"] for row in result["shares"]) == pytest.approx(result["call_ms"])
    text = markdown(report)
    assert "`ort` INT8, batch 2" in text
    assert f"| {OUTSIDE} |" in text
