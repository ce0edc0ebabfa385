"""Layer-info and profile files: what is read from them, and what strangers may put in."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exporter.engines import layers as layer_info
from exporter.engines.layers import precision_of, read_layers, read_times
from exporter.errors import ExporterError, WrongUse

RECORDS = Path(__file__).parents[2] / "data" / "trt-records"


def write(folder: Path, content: Any) -> Path:
    path = folder / "file.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def layer(**fields: Any) -> dict[str, Any]:
    return {"Name": "Conv_1", "LayerType": "CaskConvolution", **fields}


def test_a_real_record_is_read_whole() -> None:
    path = RECORDS / "mobilenet.qat.layers.json"
    layers = read_layers(path)
    raw = json.loads(path.read_text())["Layers"]
    assert [row.name for row in layers] == [row["Name"] for row in raw]
    first = layers[1]
    assert first.kind == "CaskConvolution"
    assert (first.weights, first.groups, first.is_convolution) == ("INT8", 1, True)
    assert first.nodes == ("features.0.0.weight", "QuantizeLinear_8", "Conv_12", "Clip_16")
    (tensor,) = first.inputs
    assert (tensor.name, tensor.shape, tensor.precision) == ("317", (1, 3, 224, 224), "INT8")
    assert layers[2].groups == 32


def test_real_times_are_the_records() -> None:
    times = read_times(RECORDS / "mobilenet.qat.profile.json")
    assert times["QuantizeLinear_2"] == 0.00474854
    assert len(times) == 73  # a row a layer, less the one that counts iterations


@pytest.mark.parametrize(
    ("words", "precision"),
    [
        ("Thirty-two wide channel vectorized row major Int8 format", "INT8"),
        ("Channel major INT8 format where column stride % 32 == 0", "INT8"),
        ("Row major linear FP32", "FP32"),
        ("Row major linear FP16 format", "FP16"),
        ("Half", "FP16"),
        ("Float", "FP32"),
        ("BFloat16", "BF16"),
        ("UInt8", "UINT8"),
        ("Row major linear FP8 format", "FP8"),
        ("Int64", "INT32"),
        ("Bool", "BOOL"),
        ("Unknown format", "unknown"),
        ("", "unknown"),
    ],
)
def test_types_in_tensorrts_words(words: str, precision: str) -> None:
    assert precision_of(words) == precision


def test_tensorrt_11_keeps_type_and_format_apart_and_lists_constants(tmp_path: Path) -> None:
    # Not a recording: in the form of the schema that NVIDIA's reader of 11.x has.
    tensor = {"Name": "x", "Dimensions": [1, 8, 4, 4], "Datatype": "Int8", "Format": "NC/32HW32"}
    bias = {"Name": "b", "Dimensions": [16], "Datatype": "Float", "Format": None}
    weights = {"Name": "w", "Dimensions": [16, 8, 3, 3], "Datatype": "Int8"}
    record = layer(Inputs=[tensor], Constants=[bias, weights], TacticName=None, Metadata=None)
    for content in ({"Layers": [record], "I/O Tensors": []}, [record]):
        (row,) = read_layers(write(tmp_path, content))
        assert (row.inputs[0].precision, row.weights) == ("INT8", "INT8")


def test_onnx_nodes_come_from_the_metadata_where_there_is_some(tmp_path: Path) -> None:
    metadata = "[ONNX Layer: block/conv/Conv2D]\x1e[ONNX Layer: block/add/Add]"
    (row,) = read_layers(write(tmp_path, {"Layers": [layer(Metadata=metadata)]}))
    assert row.nodes == ("block/conv/Conv2D", "block/add/Add")


def test_only_the_first_optimisation_profile_is_read(tmp_path: Path) -> None:
    names = ["Conv_1", "Conv_1 [profile 1]", "Conv_1 [profile 2]"]
    rows = read_layers(write(tmp_path, {"Layers": [layer(Name=name) for name in names]}))
    assert [row.name for row in rows] == ["Conv_1"]


def test_names_can_not_command_a_terminal(tmp_path: Path) -> None:
    name = "Conv\x1b]0;gone\x07\n\u202e_1"
    tensor = {"Name": "a\x1b[2Jb", "Format/Datatype": "Int8\x1b[1m"}
    (row,) = read_layers(write(tmp_path, {"Layers": [layer(Name=name, Outputs=[tensor])]}))
    shown = (row.name, *row.nodes, row.outputs[0].name, row.outputs[0].layout)
    assert all(text.isprintable() for text in shown)
    assert row.outputs[0].precision == "INT8"


def test_layer_names_alone_say_how_to_get_more(tmp_path: Path) -> None:
    with pytest.raises(ExporterError, match="only layer names") as caught:
        read_layers(write(tmp_path, {"Layers": ["Conv_1", "Conv_2"], "Bindings": []}))
    assert "profilingVerbosity=detailed" in str(caught.value)


DAMAGED = [
    "",
    "{",
    "[]",
    "3",
    '{"Layers": {}}',
    '{"Layers": []}',
    '{"Layers": [3]}',
    '{"Layers": [{}]}',
    '{"Layers": [{"Name": "", "LayerType": "x"}]}',
    '{"Layers": [{"Name": "x", "LayerType": 3}]}',
    '{"Layers": [{"Name": "x", "LayerType": "y", "Inputs": 3}]}',
    '{"Layers": [{"Name": "x", "LayerType": "y", "Inputs": [3]}]}',
    '{"Layers": [{"Name": "x", "LayerType": "y", "Inputs": [{"Name": "a", "Dimensions": "b"}]}]}',
    '{"Layers": [{"Name": "x", "LayerType": "y", "Outputs": [{"Dimensions": [1]}]}]}',
    "[" * 100_000,
    '{"Layers": "\\ud800',
]


@pytest.mark.parametrize("content", DAMAGED)
def test_damaged_layers_are_an_error_that_names_the_file(tmp_path: Path, content: str) -> None:
    with pytest.raises(ExporterError, match=r"file\.json"):
        read_layers(write(tmp_path, content))


@pytest.mark.parametrize(
    "content",
    [
        *DAMAGED,
        [{"count": 3}],
        [3],
        [{"name": 3, "averageMs": 1.0}],
        [{"name": "x"}],
        [{"name": "x", "averageMs": "1"}],
        [{"name": "x", "averageMs": True}],
        '[{"name": "x", "averageMs": NaN}]',
        '[{"name": "x", "averageMs": -1}]',
    ],
)
def test_damaged_profiles_are_an_error_that_names_the_file(tmp_path: Path, content: Any) -> None:
    with pytest.raises(ExporterError, match=r"file\.json"):
        read_times(write(tmp_path, content))


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    path.write_bytes(b"\xff\xfe\x00\x81")
    with pytest.raises(ExporterError, match="not readable JSON"):
        read_layers(path)


def test_a_file_too_large_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path, {"Layers": [layer()]})
    monkeypatch.setattr(layer_info, "MOST_BYTES", path.stat().st_size)
    assert len(read_layers(path)) == 1
    monkeypatch.setattr(layer_info, "MOST_BYTES", path.stat().st_size - 1)
    with pytest.raises(ExporterError, match="larger than"):
        read_layers(path)


def test_too_many_layers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path, {"Layers": [layer(), layer()]})
    monkeypatch.setattr(layer_info, "MOST_LAYERS", 1)
    with pytest.raises(ExporterError, match="2 layers, more than 1"):
        read_layers(path)


def test_what_is_no_file_is_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")  # reading it would wait for ever
    for name in ("gone", "pipe", "."):
        with pytest.raises(WrongUse, match="no such file"):
            read_layers(tmp_path / name)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["Name", "LayerType", "Inputs", "Outputs", "Weights", "Dimensions"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@settings(max_examples=40, deadline=None)
@given(VALUES)
def test_any_layer_is_read_or_refused(value: Any) -> None:
    try:
        row = layer_info._layer(value, "file.json: layer 0")
    except ExporterError:
        return
    assert row.name.isprintable()
    assert row.kind
