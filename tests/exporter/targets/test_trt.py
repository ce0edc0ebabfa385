"""``--to trt``: handed over where there is no GPU, finished where there is (by a stand-in)."""

from __future__ import annotations

import json
import platform
import stat
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from exporter import diagnosis as doctor
from exporter import pipeline, targets
from exporter.artifact import folder as artifact
from exporter.config import Batch, BuildOptions, ExportConfig, Precision
from exporter.engines import here
from exporter.engines import record as engine_record
from exporter.engines.inspection import inspect
from exporter.engines.record import EngineRecord
from exporter.errors import ConversionError, ExporterError, GateRefused, Missing, WrongUse
from exporter.finish import finish
from exporter.machine import gpus
from exporter.targets import _timing_cache, _trtexec, trt
from tests.exporter.targets import tiny
from tests.exporter.targets.tiny import told

RECORDS = Path(__file__).parents[2] / "data" / "trt-records"


@pytest.fixture
def no_tensorrt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trt, "MODULE", "tensorrt_that_is_not_here")


def test_without_tensorrt_the_graph_is_handed_over(no_tensorrt: None, tmp_path: Path) -> None:
    options = BuildOptions(workspace_mib=512)
    done = trt.compile(tiny.folder(tmp_path), tiny.build(options=options))
    assert done.engine is None
    facts = done.section
    assert facts["compiled"] is False
    assert "tensorrt" in facts["why"]
    assert facts["options"] == {"workspace_mib": 512}
    assert facts["executed"] == "not run on a GPU"
    assert facts["trtexec"].startswith("trtexec --onnx=model.onnx --saveEngine=engine.plan ")
    assert [file.name for file in tmp_path.iterdir()] == ["model.onnx"]


def test_type_stubs_are_not_tensorrt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stub = tmp_path / "packages" / "only_stubs" / "__init__.pyi"
    stub.parent.mkdir(parents=True)
    stub.touch()
    monkeypatch.syspath_prepend(stub.parents[1])
    monkeypatch.setattr(trt, "MODULE", "only_stubs")
    missing = trt.lacking()
    assert missing is not None
    assert "module tensorrt is not installed" in missing.message


def test_nvidias_parser_checks_what_is_handed_over(no_tensorrt: None, tmp_path: Path) -> None:
    rtx = pytest.importorskip("tensorrt_rtx", reason="pip install 'exporter[rtx]'")
    facts = trt.compile(tiny.folder(tmp_path), tiny.build()).section
    assert facts["parser"]["version"] == rtx.__version__
    with pytest.raises(ConversionError, match="node_quantize"):
        trt.compile(tiny.folder(tmp_path, zero_point=1), tiny.build())


def test_tensorrt_without_a_gpu_hands_over_too(
    stand_ins: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trt, "find_gpus", lambda: gpus.Gpus("none", ()))
    facts = trt.compile(tiny.folder(tmp_path), tiny.build()).section
    assert facts["why"] == "no NVIDIA GPU on this machine"
    with pytest.raises(Missing, match="no NVIDIA GPU"):
        trt.compile(tmp_path, tiny.build(here=True))


def test_trtexec_line_has_every_flag() -> None:
    options = BuildOptions(512, 4, hardware_compatible=True, version_compatible=True, dla_core=1)
    built = tiny.build(options=options)
    line = _trtexec.command({"x": [None, 3, 16, 16], "fixed": [1, 3]}, built)
    assert line.split() == [
        "trtexec",
        "--onnx=model.onnx",
        "--saveEngine=engine.plan",
        "--stronglyTyped",
        "--minShapes=x:1x3x16x16",
        "--optShapes=x:2x3x16x16",
        "--maxShapes=x:4x3x16x16",
        "--noTF32",
        "--memPoolSize=workspace:512",
        "--builderOptimizationLevel=4",
        "--hardwareCompatibilityLevel=ampere+",
        "--versionCompatible",
        "--useDLACore=1",
        "--allowGPUFallback",
        "--profilingVerbosity=detailed",
        "--exportLayerInfo=layers.json",
        "--timingCacheFile=timing.cache",
        "--warmUp=0",
        "--duration=0",
        "--iterations=1",
    ]
    half = _trtexec.command({"x": [2, 3]}, replace(built, precision="fp16")).split()
    assert "--fp16" in half, "which switches a DLA on, before TensorRT 11"
    assert "--stronglyTyped" not in half
    assert "Shapes" not in _trtexec.command({"x": [2, 3]}, tiny.build())


def test_compile_finishes_in_place(stand_ins: Any, tmp_path: Path) -> None:
    path = tiny.handed_over(tmp_path / "a", options={"workspace_mib": 64, "opt_level": 5})
    done = finish(path)
    section = artifact.read(path).passport["trt"]
    assert done.passport["trt"] == section
    assert section["compiled"] is True
    assert section["compiled_at"].startswith("20")
    assert section["options"] == {"workspace_mib": 64, "opt_level": 5}, "as it was exported with"
    shapes = {"min": [1, 3, 16, 16], "opt": [2, 3, 16, 16], "max": [4, 3, 16, 16]}
    assert engine_record.read(done) == EngineRecord(
        "tensorrt",
        "10.3.0",
        ("8.7",),
        "none",
        version_compatible=False,
        os=platform.system().lower(),
        arch=platform.machine(),
        cuda="12.6",
        driver="540.4.0",
        gpu="Stand-in GPU",
        profile={"x": shapes},
    )
    got = told(path)
    assert got["network"] == 1 << stand_ins.NetworkDefinitionCreationFlag.STRONGLY_TYPED
    assert got["flags"] == [], "TF32 off: FP32 was asked for"
    assert (got["WORKSPACE"], got["builder_optimization_level"]) == (64 << 20, 5)
    assert got["profiling_verbosity"] == stand_ins.ProfilingVerbosity.DETAILED
    files = ["calibration.json", "engine.plan", "layers.json", "model.onnx"]
    assert sorted(done.passport["files"]) == files
    assert all(done.file(name) for name in files)
    (layer,) = json.loads(done.file("layers.json").read_text())["Layers"]
    assert layer["Outputs"][0]["Format/Datatype"] == "Row major linear FP32", "all shapes were set"
    assert "measured" not in done.passport, "that was another engine"
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a", "cache"]


@pytest.mark.parametrize("shortcuts", [True, False])
def test_the_layers_of_what_was_compiled_are_audited(
    stand_ins: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shortcuts: bool
) -> None:
    """The stand-in's inspector says what two real engines said, with and without shortcut Q/DQ."""
    name = "mobilenet_v2_residuals.qat" if shortcuts else "mobilenet.qat"
    text = (RECORDS / f"{name}.layers.json").read_text()
    monkeypatch.setattr(stand_ins.Inspector, "get_engine_information", lambda *_: text)
    found = inspect(finish(tiny.handed_over(tmp_path / "a", precision="int8")).path)
    assert found.audit is not None
    assert found.audit.precisions() == {"INT8": 53}
    if shortcuts:
        found.require_int8()
    else:
        with pytest.raises(GateRefused, match="not INT8 throughout"):
            found.require_int8()


def test_an_unknown_gpu_is_not_built_for(
    stand_ins: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without its compute capability nobody could say later where the engine loads."""
    unknown = gpus.Gpus("/dev", (gpus.Gpu("NVIDIA GPU (/dev/nvidia0)"),))
    monkeypatch.setattr(here, "find_gpus", lambda root: unknown)
    with pytest.raises(Missing, match="compute capability of NVIDIA GPU") as caught:
        finish(tiny.handed_over(tmp_path / "a"))
    assert "nvidia-smi" in str(caught.value.hint)


@pytest.mark.parametrize(("capability", "fits"), [("8.6", False), ("8.9", True), ("12.0", True)])
def test_fp8_is_not_built_for_a_gpu_without(
    stand_ins: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capability: str,
    fits: bool,
) -> None:
    """The same by `compile` and, before any work, by `export`."""
    there = gpus.Gpus("nvidia-smi", (gpus.Gpu("Some GPU", 8192, capability, "580.1"),))
    monkeypatch.setattr(here, "find_gpus", lambda root: there)
    monkeypatch.setattr(trt, "find_gpus", lambda: there)
    path = tiny.handed_over(tmp_path / "a", precision="fp8")
    config = ExportConfig("no-such-model", "trt", tmp_path / "out", "fp8")
    if fits:
        assert finish(path).passport["trt"]["compiled"] is True
        with pytest.raises(WrongUse, match="no-such-model"):
            pipeline.export(config)
        return
    for attempt in (lambda: finish(path), lambda: pipeline.export(config)):
        with pytest.raises(Missing, match=r"Some GPU has no FP8: its compute capability is 8\.6"):
            attempt()
    assert artifact.read(path).passport["trt"]["compiled"] is False
    with pytest.raises(GateRefused, match="can't be compiled for this machine: Some GPU"):
        doctor.engine_fit(artifact.read(path))
    with pytest.raises(GateRefused, match="can't be compiled for jetson-orin"):
        doctor.engine_fit(artifact.read(path), "jetson-orin-jp6.2")
    with pytest.raises(Missing, match="not compiled"):
        doctor.engine_fit(artifact.read(path), "jetson-thor-jp7.1")
    finish(tiny.handed_over(tmp_path / "b", precision="int8"))


def test_compile_again_takes_force_and_new_options(stand_ins: Any, tmp_path: Path) -> None:
    path = tiny.handed_over(tmp_path / "a", options={"opt_level": 5})
    finish(path)
    with pytest.raises(WrongUse, match="already compiled"):
        finish(path)
    options = BuildOptions(hardware_compatible=True, version_compatible=True)
    done = finish(path, options, force=True)
    asked = {"opt_level": 5, "hardware_compatible": True, "version_compatible": True}
    assert done.passport["trt"]["options"] == asked, "what was asked for at the export stays"
    done = finish(path, BuildOptions(opt_level=2), force=True)
    assert done.passport["trt"]["options"] == {**asked, "opt_level": 2}
    record = engine_record.read(done)
    assert (record.hardware_compatibility, record.version_compatible) == ("ampere+", True)
    assert told(path)["flags"] == ["VERSION_COMPATIBLE"]
    assert told(path)["hardware_compatibility_level"] == 1


def test_what_lies_beside_the_graph_stays(stand_ins: Any, tmp_path: Path) -> None:
    path = tiny.handed_over(tmp_path / "a")
    with artifact.writing(path, force=True) as aside:
        for name in ("model.onnx", "calibration.json"):
            (aside / name).write_bytes((path / name).read_bytes())
        (aside / "sensitivity.json").write_text('{"layers": []}')
        artifact.seal(aside, artifact.read(path).passport)
    done = finish(path)
    assert done.read_bytes("sensitivity.json") == b'{"layers": []}'
    assert {"model.onnx", "calibration.json", "engine.plan"} < {*done.passport["files"]}


def test_a_failed_compile_leaves_it_as_it_was(
    stand_ins: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tiny.handed_over(tmp_path / "a")
    before = {
        file.name: (file.read_bytes(), stat.S_IMODE(file.stat().st_mode)) for file in path.iterdir()
    }
    monkeypatch.setattr(stand_ins.Builder, "build_serialized_network", lambda *_: None)
    with pytest.raises(ExporterError, match="could not build"):
        finish(path)
    after = {
        file.name: (file.read_bytes(), stat.S_IMODE(file.stat().st_mode)) for file in path.iterdir()
    }
    assert after == before
    assert [file.name for file in tmp_path.iterdir()] == ["a"]


def test_a_changed_graph_is_not_compiled(stand_ins: Any, tmp_path: Path) -> None:
    path = tiny.handed_over(tmp_path / "a")
    (path / "model.onnx").write_bytes(tiny.graph(op="Sigmoid"))
    with pytest.raises(ExporterError, match="doesn't match the passport"):
        finish(path)


def test_the_current_folder_can_be_compiled(
    stand_ins: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tiny.handed_over(tmp_path / "a")
    monkeypatch.chdir(path)
    finish(Path("."))
    assert artifact.read(path).passport["trt"]["compiled"] is True


@pytest.mark.parametrize(
    "damage",
    [
        {"batch": {}},
        {"trt": {"compiled": False, "options": {"no_such": 1}}},
        {"trt": {"compiled": False, "options": {"opt_level": "x"}}},
        {"trt": {"compiled": False, "options": []}},
    ],
)
def test_a_damaged_passport_is_an_error_of_ours(tmp_path: Path, damage: dict[str, Any]) -> None:
    path = tiny.handed_over(tmp_path / "a")
    file = path / "passport.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **damage}))
    with pytest.raises(ExporterError, match=r"passport\.json is damaged"):
        finish(path)


def test_compile_names_what_is_missing(no_tensorrt: None, tmp_path: Path) -> None:
    with pytest.raises(Missing, match="module tensorrt is not installed") as caught:
        finish(tiny.handed_over(tmp_path / "a"))
    assert "--system-site-packages" in str(caught.value.hint)
    assert caught.value.exit_code == 4


def test_compile_is_for_targets_with_an_engine(tmp_path: Path) -> None:
    path = tiny.handed_over(tmp_path / "a", target="ort")
    passport = json.loads((path / "passport.json").read_text())
    del passport["ort"]
    (path / "passport.json").write_text(json.dumps(passport))
    with pytest.raises(WrongUse, match="'ort', which has nothing to compile"):
        finish(path)


def test_timings_are_kept_by_release_and_gpu(
    stand_ins: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tiny.handed_over(tmp_path / "a")
    finish(path)
    assert told(path)["timings"] == ""
    finish(path, force=True)
    assert told(path)["timings"] == "timed;"
    (file,) = (tmp_path / "cache" / "exporter" / "timing").iterdir()
    assert file.name == "10.3.0-Stand-in-GPU-8.7.cache"
    file.write_bytes(b"damaged")
    finish(path, force=True)
    assert told(path)["timings"] == "", "a damaged cache is replaced"
    monkeypatch.setattr(stand_ins, "__version__", "10.4.0")
    finish(path, force=True)
    assert told(path)["timings"] == "", "another release has timings of its own"


def test_timings_that_cannot_be_kept_do_not_fail_the_build(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    _timing_cache.save(tmp_path / "file" / "x.cache", b"timings")
    assert _timing_cache.load(tmp_path / "file" / "x.cache") == b""


def test_an_engine_is_opened_only_when_compiled_and_unchanged(
    stand_ins: Any, tmp_path: Path
) -> None:
    path = tiny.handed_over(tmp_path / "a")
    with pytest.raises(Missing, match="is not compiled"):
        targets.open_artifact(artifact.read(path))
    finish(path)
    with (path / "engine.plan").open("ab") as file:
        file.write(b" ")
    with pytest.raises(ExporterError, match="doesn't match the passport"):
        targets.open_artifact(artifact.read(path))


@pytest.mark.parametrize(
    ("target", "options", "message"),
    [
        ("trt-rtx", {"opt_level": 3}, "'trt-rtx' does not take opt-level"),
        ("trt", {"compute_capabilities": ("8.6",)}, "'trt' does not take compute-capabilities"),
        ("ort", {"dla_core": 0}, "'ort' does not take dla-core"),
    ],
)
def test_options_a_target_would_ignore_are_refused(
    target: str, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(WrongUse, match=message):
        targets.check_options(targets.lookup(target), BuildOptions(**options))


@pytest.mark.parametrize("target", ["trt", "trt-rtx"])
def test_the_cpus_scheme_is_refused_before_any_work(target: str, tmp_path: Path) -> None:
    """With FP32 around it, too, where nothing but the parser would object."""
    config = ExportConfig(
        "no such model", target, tmp_path / "out", "int8", scheme="cpu", rest="fp32"
    )
    with pytest.raises(WrongUse, match=f"--scheme cpu and --to {target} contradict"):
        pipeline.export(config)


@pytest.mark.parametrize(
    ("precision", "batch", "message"),
    [
        ("fp32", Batch(1, 1, 1), "FP16 and INT8, but --precision is fp32"),
        ("int8", Batch(1, 2, 4), "one batch size, but --batch is 1:2:4"),
    ],
)
def test_what_a_dla_does_not_do_is_refused(
    precision: Precision, batch: Batch, message: str
) -> None:
    with pytest.raises(WrongUse, match=message):
        targets.lookup("trt").check_build(BuildOptions(dla_core=0), precision, batch)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"workspace_mib": 0}, "at least 1 MiB"),
        ({"opt_level": 6}, "0 to 5"),
        ({"dla_core": -1}, "at least 0"),
        ({"compute_capabilities": ("86",)}, "bad compute capability '86'"),
    ],
)
def test_values_no_builder_takes_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(WrongUse, match=message):
        BuildOptions(**options)


def test_an_engine_has_a_largest_batch() -> None:
    trt_row, ort_row = targets.lookup("trt"), targets.lookup("ort")
    assert trt_row.bounded(Batch()) == Batch(1, 1, 32)
    assert trt_row.bounded(Batch(1, 8, 16)) == Batch(1, 8, 16)
    assert ort_row.bounded(Batch()) == Batch()
