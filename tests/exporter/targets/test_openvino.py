"""The target openvino: what it executes, what it refuses, and that it only does what was asked."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from click.testing import CliRunner
from onnx import TensorProto, helper, numpy_helper

from exporter import pipeline, targets
from exporter.artifact import folder as artifact
from exporter.artifact.passport import describe_graph
from exporter.cli.main import main
from exporter.config import Batch, BuildOptions, ExportConfig
from exporter.errors import ConversionError, ExporterError, Missing, WrongUse
from exporter.machine import cpus
from exporter.passes.insert_qdq import InsertQdq, tensors_to_calibrate
from exporter.passes.schemes import lookup
from exporter.targets import Build
from tests.exporter import networks

if not importlib.util.find_spec("openvino"):
    pytest.skip("OpenVINO is not installed: pip install '.[openvino]'", allow_module_level=True)

from exporter.targets import openvino

Array = np.ndarray[Any, Any]


def residual(scale: float = 1.0) -> ir.Model:
    """Two convolutions, a shortcut, ReLU, global pooling, dense; NCHW, any batch."""
    rng = np.random.default_rng(0)
    weights = {
        "w1": rng.normal(0, 0.3, (8, 4, 3, 3)) * scale,
        "w2": rng.normal(0, 0.2, (8, 8, 3, 3)),
        "w3": rng.normal(0, 0.4, (8, 4, 1, 1)),
        "b1": rng.normal(0, 0.1, 8),
        "b2": rng.normal(0, 0.1, 8),
        "b3": rng.normal(0, 0.1, 8),
        "dense": rng.normal(0, 1, (8, 3)),
        "bias": rng.normal(0, 1, 3),
    }
    text = """
        <ir_version: 9, opset_import: ["": 17]>
        g (float[N,4,8,8] x) => (float[N,3] logits) {
            c1 = Conv<pads=[1,1,1,1]>(x, w1, b1)
            r1 = Relu(c1)
            c2 = Conv<pads=[1,1,1,1]>(r1, w2, b2)
            c3 = Conv(x, w3, b3)
            a = Add(c2, c3)
            r2 = Relu(a)
            p = GlobalAveragePool(r2)
            f = Flatten(p)
            logits = Gemm(f, dense, bias)
        }"""
    proto = onnx.parser.parse_model(text)
    for name, value in weights.items():
        proto.graph.initializer.append(numpy_helper.from_array(value.astype(np.float32), name))
    return ir.from_proto(onnx.shape_inference.infer_shapes(proto))


def images(count: int = 16) -> Array:
    return np.random.default_rng(1).random((count, 4, 8, 8), np.float32)


def quantised(model: ir.Model, *, reduce_range: bool = True) -> ir.Model:
    """Quantise by the CPU's scheme, with the ranges that :func:`images` give."""
    proto = ir.to_proto(model)
    scheme = lookup("cpu", reduce_range=reduce_range)
    names = list(tensors_to_calibrate(model, scheme))
    inner = [name for name in names if name != "x"]
    del proto.graph.output[:]
    proto.graph.output.extend(
        helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in inner
    )
    found = dict(zip(inner, as_written(proto.SerializeToString(), images()), strict=True))
    ranges = {name: found.get(name, images()) for name in names}
    insert = InsertQdq(
        scheme, {n: (float(min(v.min(), 0)), float(v.max())) for n, v in ranges.items()}
    )
    insert(model)
    return model


def as_written(graph: bytes, batch: Array) -> list[Array]:
    """The oracle: onnxruntime with every graph optimisation off, so that no sum saturates."""
    ort = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    session = ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    outputs: list[Array] = session.run(None, {"x": batch})
    return outputs


def export(model: ir.Model | bytes, folder: Path, precision: Any = "fp32") -> artifact.Artifact:
    """Compile a graph as the pipeline does, with the least passport that opens."""
    graph = model if isinstance(model, bytes) else ir.to_proto(model).SerializeToString()
    described = describe_graph(ir.from_proto(onnx.load_from_string(graph)))
    fields = {
        **{key: {} for key in ("source", "batch", "passes", "check")},
        "target": "openvino",
        "precision": precision,
        "layout": "nchw",
        "graph": described,
    }
    if precision == "int8":
        fields["int8"] = {"reduce_range": True}
    with artifact.writing(folder, force=False) as aside:
        (aside / "model.onnx").write_bytes(graph)
        compiled = openvino.compile(aside, Build(Batch(), precision, BuildOptions()))
        artifact.seal(aside, {**fields, **compiled.fields("openvino")})
    return artifact.read(folder)


def logits(found: artifact.Artifact, batch: Array) -> Array:
    with targets.open_artifact(found, threads=1) as runner:
        return runner.infer({"x": batch})["logits"]


def rows(found: artifact.Artifact, kind: str) -> list[dict[str, Any]]:
    layers = found.passport["openvino"]["executed"]["layers"]
    named = [dict(zip(layers["columns"], row, strict=True)) for row in layers["rows"]]
    return [row for row in named if row["type"] == kind]


def test_fp32_is_the_same_network_for_any_batch(tmp_path: Path) -> None:
    """Sums of 72 products in another order: a few roundings of 6e-8 each."""
    model = residual()
    found = export(model, tmp_path / "a")
    assert set(found.passport["files"]) == {"model.onnx", "model.xml", "model.bin"}
    expected = as_written(ir.to_proto(model).SerializeToString(), images())[0]
    with targets.open_artifact(found, threads=1) as runner:
        for count in (7, 1, 16):  # after another size, and not what the batch before gave
            got = runner.infer({"x": images()[:count]})["logits"]
            assert got.dtype == np.float32
            np.testing.assert_allclose(
                got, expected[:count], rtol=0, atol=1e-5 * np.abs(expected).max()
            )


def test_fp32_has_no_layer_in_bfloat16(tmp_path: Path) -> None:
    found = export(residual(), tmp_path / "a")
    executed = found.passport["openvino"]["executed"]
    assert executed["summary"] == ["3 of 3 convolutions in f32", "1 of 1 dense layers in f32"]
    assert found.passport["openvino"]["inference_precision"] == "f32"
    assert all(row[2] == row[3] == "f32" for row in executed["layers"]["rows"])


def test_int8_runs_its_convolutions_in_int8(tmp_path: Path) -> None:
    model = quantised(residual())
    found = export(model, tmp_path / "a", "int8")
    convolutions = rows(found, "Convolution")
    assert [row["precision"] for row in convolutions] == ["u8"] * 3
    assert all(row["kernel"].endswith("I8") for row in convolutions)
    assert sum("a" in row["made_of"] for row in convolutions) == 1, "the Add fuses into one"
    assert found.passport["openvino"]["executed"]["summary"][0] == "3 of 3 convolutions in u8"
    expected = as_written(ir.to_proto(model).SerializeToString(), images())[0]
    # Fused requantisation rounds at other places than Q and DQ one by one: a step or two of 255.
    assert np.abs(logits(found, images()) - expected).max() <= 2 / 255 * np.abs(expected).max()


def test_fp16_halves_the_weights_and_computes_in_fp32(tmp_path: Path) -> None:
    """The oracle has weights rounded to half; half sums, at 2^-11 each, would be far off it."""
    whole, half = export(residual(), tmp_path / "a"), export(residual(), tmp_path / "b", "fp16")
    sizes = [found.passport["files"]["model.bin"]["bytes"] for found in (whole, half)]
    assert sizes[1] < 0.6 * sizes[0]
    assert half.passport["openvino"]["executed"]["summary"] == [
        "weights stored as FP16",
        "3 of 3 convolutions in f32",
        "1 of 1 dense layers in f32",
    ]
    rounded = ir.to_proto(residual())
    for tensor in rounded.graph.initializer:
        value = numpy_helper.to_array(tensor).astype(np.float16).astype(np.float32)
        tensor.CopyFrom(numpy_helper.from_array(value, tensor.name))
    expected = as_written(rounded.SerializeToString(), images())[0]
    np.testing.assert_allclose(
        logits(half, images()), expected, rtol=0, atol=1e-5 * np.abs(expected).max()
    )
    assert np.abs(logits(whole, images()) - expected).max() > 1e-5 * np.abs(expected).max()


def test_weights_beyond_fp16_are_refused_not_cut(tmp_path: Path) -> None:
    with pytest.raises(
        ConversionError, match=r"w1.* contains .*, but FP16's largest value is 65504"
    ):
        export(residual(scale=1e6), tmp_path / "a", "fp16")
    assert list(tmp_path.iterdir()) == []


def saturating(weight: int) -> tuple[bytes, Array]:
    """A convolution of the largest activations with the largest weights, exact in float."""
    values = {
        "w": np.full((8, 16, 3, 3), weight, np.int8),
        "ws": np.ones(8, np.float32),
        "wz": np.zeros(8, np.int8),
        "s": np.float32(1),
        "z": np.uint8(0),
    }
    proto = onnx.parser.parse_model("""
        <ir_version: 9, opset_import: ["": 17]>
        g (float[1,16,8,8] x) => (float[1,8,8,8] logits) {
            q = QuantizeLinear(x, s, z)
            d = DequantizeLinear(q, s, z)
            dw = DequantizeLinear<axis=0>(w, ws, wz)
            logits = Conv<pads=[1,1,1,1]>(d, dw)
        }""")
    for name, value in values.items():
        proto.graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
    return proto.SerializeToString(), np.full((1, 16, 8, 8), 255, np.float32)


def test_seven_bit_weights_never_saturate(tmp_path: Path) -> None:
    graph, batch = saturating(64)
    found = export(graph, tmp_path / "a", "int8")
    assert [row["precision"] for row in rows(found, "Convolution")] == ["u8"]
    np.testing.assert_array_equal(logits(found, batch), as_written(graph, batch)[0])


@pytest.mark.skipif(not cpus.lacks_vnni(), reason="this CPU has VNNI, and sums don't saturate")
def test_eight_bit_weights_saturate_here_so_they_are_refused(tmp_path: Path) -> None:
    """255 * 127 twice is 64,770, which int16 cuts to 32,767: half of every sum is lost."""
    graph, batch = saturating(127)
    found = export(graph, tmp_path / "a", "int8")
    expected = as_written(graph, batch)[0]
    assert logits(found, batch).max() < 0.51 * expected.max(), "OpenVINO mended it: drop the guard"
    found.passport["int8"]["reduce_range"] = False
    with pytest.raises(Missing, match="no VNNI, so sums would saturate"):
        targets.open_artifact(found)


@pytest.mark.skipif(cpus.cpu_has_any(("avx512_bf16", "amx_bf16")), reason="this CPU has bfloat16")
def test_bf16_is_refused_where_openvino_would_silently_use_fp32(tmp_path: Path) -> None:
    with pytest.raises(Missing, match="computes in f32 on this CPU, not in bf16"):
        export(residual(), tmp_path / "a", "bf16")


@pytest.mark.skipif(
    not cpus.cpu_has_any(("avx512_bf16", "amx_bf16")), reason="this CPU has no bfloat16"
)
def test_bf16_is_executed_where_it_was_asked_for(tmp_path: Path) -> None:
    found = export(residual(), tmp_path / "a", "bf16")
    assert found.passport["openvino"]["executed"]["summary"][0] == "3 of 3 convolutions in bf16"


@pytest.mark.parametrize("flags", ["avx2 fma", "avx2 fma avx512_bf16", "avx2 fma amx_bf16"])
def test_bf16_is_refused_before_any_work_by_what_the_cpu_lacks(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, flags: str
) -> None:
    info = cpus.parse_cpuinfo(f"model name : x\nflags : {flags}\n")
    cpu = cpus.Cpu(info.model, 1, info.instruction_sets, info.consequences)
    monkeypatch.setattr(cpus, "this_cpu", lambda: cpu)
    row = targets.lookup("openvino")
    row.check_cpu("fp32")
    if "bf16" in flags:
        row.check_cpu("bf16")
        return
    with pytest.raises(
        Missing, match="this CPU has no bf16: it has none of the instruction sets avx512_bf16"
    ) as e:
        pipeline.export(
            ExportConfig("resnet18", target="openvino", output=tmp_path / "a", precision="bf16")
        )
    assert e.value.exit_code == 4
    opened = artifact.Artifact(tmp_path, {"target": "openvino", "precision": "bf16"})
    with pytest.raises(Missing, match="this CPU has no bf16"):
        targets.open_artifact(opened)


@pytest.mark.parametrize("name", ["onnx", "ort"])
def test_other_targets_refuse_bf16(name: str) -> None:
    with pytest.raises(WrongUse, match="does not support bf16"):
        targets.lookup(name).check_precision("bf16")


@pytest.mark.parametrize("name", ["model.xml", "model.bin"])
def test_a_changed_file_is_never_opened(tmp_path: Path, name: str) -> None:
    found = export(residual(), tmp_path / "a")
    with (tmp_path / "a" / name).open("ab") as file:
        file.write(b" ")
    with pytest.raises(ExporterError, match="SHA-256 differs"):
        targets.open_artifact(found)


def test_outputs_go_by_the_graphs_names_even_where_openvino_merges_them(tmp_path: Path) -> None:
    proto = onnx.parser.parse_model("""
        <ir_version: 9, opset_import: ["": 17]>
        g (float[N,4] x) => (float[N,4] zebra, float[N,4] ant) {
            zebra = Relu(x)
            ant = Identity(zebra)
        }""")
    found = export(proto.SerializeToString(), tmp_path / "a")
    with targets.open_artifact(found) as runner:
        got = runner.infer({"x": np.float32([[-1, 2, -3, 4]])})
    assert list(got) == ["zebra", "ant"]
    assert all(array.tolist() == [[0, 2, 0, 4]] for array in got.values())


def test_bad_feeds_are_refused_not_replaced_by_the_last_ones(tmp_path: Path) -> None:
    found = export(residual(), tmp_path / "a")
    with targets.open_artifact(found, threads=1) as runner:
        runner.infer({"x": images(2)})
        for feeds in ({}, {"y": images(2)}, {"x": images(2), "y": images(2)}):
            with pytest.raises(WrongUse, match="inputs are x, not"):
                runner.infer(feeds)
        with pytest.raises(WrongUse, match="takes float32, not float64"):
            runner.infer({"x": images(2).astype(np.float64)})
        with pytest.raises(WrongUse, match=r"takes \['N', 4, 8, 8\], not \(2, 3, 8, 8\)"):
            runner.infer({"x": images(2)[:, :3]})


def test_a_thread_count_is_kept_or_refused(tmp_path: Path) -> None:
    found = export(residual(), tmp_path / "a")
    with (
        pytest.raises(WrongUse, match="threads here, not 4096"),
        targets.open_artifact(found, threads=4096),
    ):
        pass


@pytest.mark.tf
@pytest.mark.parametrize("more", [(), ("--batch", "7"), ("--layout", "nchw")])
def test_from_keras_to_evaluation_and_inspection(
    keras: ModuleType,
    tmp_path: Path,
    tiny_data: str,
    more: tuple[str, ...],
) -> None:
    def run(*args: str) -> str:
        done = CliRunner().invoke(main, args, catch_exceptions=False)
        assert done.exit_code == 0, done.output
        return done.stdout

    plain = networks.save(networks.plain(keras), tmp_path / "plain.keras")
    out = str(tmp_path / "out")
    given = ("--preprocess", "unit", "--data", tiny_data, "-o", out)
    run("export", plain, "--to", "openvino", *given, *more)
    result = json.loads(run("evaluate", out, "--data", tiny_data, "--json"))["results"][1]
    assert result["images"] == 96
    assert result["flips"] == []
    assert result["against_keras"]["max_relative_error"] < 1e-5
    assert "1 of 1 convolutions in f32" in " ".join(run("inspect", out).split())


IMPORT = """
import socket, sys, time
def refuse(*_, **__): raise SystemExit("it talks to the network")
socket.getaddrinfo = socket.socket.connect = refuse
sys.modules["onnxruntime"] = None  # one engine a process
from exporter.targets.openvino import load_openvino
load_openvino().Core()
time.sleep(0.3)
assert not [name for name in sys.modules if name.startswith("openvino_telemetry")]
"""


def test_telemetry_stays_off(tmp_path: Path) -> None:
    """As it comes, the import alone leaves ``intel/openvino_ga_cid`` in the home folder."""
    quiet = {name: value for name, value in os.environ.items() if name != "CI"}
    done = subprocess.run(
        [sys.executable, "-c", IMPORT],
        env={**quiet, "HOME": str(tmp_path), "PYTHONPATH": str(Path(__file__).parents[3])},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert list(tmp_path.iterdir()) == []
