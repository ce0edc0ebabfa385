"""The builder, by real builds of tiny graphs with TensorRT-RTX, which needs no GPU for that."""

from __future__ import annotations

import os
import platform
import signal
from pathlib import Path
from typing import Any

import pytest

from exporter import targets
from exporter.artifact import folder as artifact
from exporter.config import Batch, BuildOptions
from exporter.diagnosis import engine_fit
from exporter.engines.inspection import inspect
from exporter.engines.record import ENGINE
from exporter.errors import ConversionError, ExporterError, Missing, WrongUse
from exporter.finish import finish
from exporter.targets import _tensorrt
from exporter.targets._tensorrt_watch import Phases
from tests.exporter.targets import tiny

trt: Any = pytest.importorskip("tensorrt_rtx", reason="pip install 'exporter[rtx]'")
AMPERE = _tensorrt.BuiltFor(("8.6",), "none")


def test_a_plan_is_built_for_the_batch_range(tmp_path: Path) -> None:
    shown: list[tuple[int, int]] = []
    build = tiny.build(progress=lambda stage, done, total, note="": shown.append((done, total)))
    done = _tensorrt.build_plan(trt, tiny.folder(tmp_path), build, AMPERE)
    assert (tmp_path / ENGINE).stat().st_size > 1000
    assert done.section["typing"] == "strongly typed"
    assert done.section["tf32"] is False
    assert done.section["warnings"] == []
    record = done.engine
    assert record is not None
    assert (record.flavour, record.tensorrt) == ("tensorrt_rtx", trt.__version__)
    assert (record.os, record.arch) == (platform.system().lower(), platform.machine())
    assert (record.compute_capabilities, record.hardware_compatibility) == (("8.6",), "none")
    assert (record.gpu, record.driver, record.cuda) == (None, None, None)
    shapes = {"min": [1, 3, 16, 16], "opt": [2, 3, 16, 16], "max": [4, 3, 16, 16]}
    assert record.profile == {"x": shapes}
    assert shown == sorted(shown), "never goes back"
    assert len(set(shown)) > 5
    assert shown[-1] == (100, 100)


def test_a_fixed_batch_needs_no_range(tmp_path: Path) -> None:
    folder = tiny.folder(tmp_path, shape="2,3,16,16")
    record = _tensorrt.build_plan(trt, folder, tiny.build(Batch(2, 2, 2)), AMPERE).engine
    assert record is not None
    assert record.profile == {"x": {end: [2, 3, 16, 16] for end in ("min", "opt", "max")}}


def test_images_of_any_size_are_refused(tmp_path: Path) -> None:
    folder = tiny.folder(tmp_path, shape="N,3,H,16")
    with pytest.raises(ConversionError, match="'x' has open dimensions besides its batch"):
        _tensorrt.build_plan(trt, folder, tiny.build(), AMPERE)


@pytest.mark.parametrize(
    ("about", "message", "hint"),
    [
        (
            {"zero_point": 3},
            r"QuantizeLinear node 'node_quantize', Keras layer 'layer_quantize': .*zero point",
            "--scheme tensorrt",
        ),
        ({"op": "NoSuchOp"}, "NoSuchOp node 'node_relu', Keras layer 'layer_relu': ", "this op"),
    ],
)
def test_parser_errors_name_node_and_layer(
    tmp_path: Path, about: dict[str, Any], message: str, hint: str
) -> None:
    with pytest.raises(ConversionError, match=message) as caught:
        _tensorrt.build_plan(trt, tiny.folder(tmp_path, **about), tiny.build(), AMPERE)
    assert caught.value.hint is not None
    assert hint in caught.value.hint
    assert not (tmp_path / "engine.plan").exists()


def test_what_is_no_graph_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"no protobuf")
    with pytest.raises(ConversionError, match=r"refuses the graph: .*[Ff]ailed to parse"):
        _tensorrt.build_plan(trt, tmp_path, tiny.build(), AMPERE)


def test_ctrl_c_stops_the_build_and_leaves_nothing(tmp_path: Path) -> None:
    seen: list[int] = []

    def interrupt(stage: str, done: int, total: int, note: str = "") -> None:
        seen.append(done)
        if len(seen) == 3:
            os.kill(os.getpid(), signal.SIGINT)

    with (
        pytest.raises(KeyboardInterrupt),
        artifact.writing(tmp_path / "out", force=False) as folder,
    ):
        _tensorrt.build_plan(trt, tiny.folder(folder), tiny.build(progress=interrupt), AMPERE)
    assert 100 not in seen, "stopped, not finished"
    assert list(tmp_path.iterdir()) == []


def test_what_progress_raises_ends_the_build(tmp_path: Path) -> None:
    def broken(stage: str, done: int, total: int, note: str = "") -> None:
        raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        _tensorrt.build_plan(trt, tiny.folder(tmp_path), tiny.build(progress=broken), AMPERE)


def test_a_failed_build_says_why(tmp_path: Path) -> None:
    options = BuildOptions(version_compatible=True)  # needs a library that this module lacks
    with pytest.raises(ExporterError, match=r"could not build: .*libnvinfer_lean"):
        _tensorrt.build_plan(trt, tiny.folder(tmp_path), tiny.build(options=options), AMPERE)
    assert not (tmp_path / "engine.plan").exists()


def test_rtx_target_says_where_its_plan_runs(tmp_path: Path) -> None:
    compiler = targets.lookup("trt-rtx").load()
    options = BuildOptions(compute_capabilities=("7.5", "12.0"))
    turing = compiler.compile(tiny.folder(tmp_path), tiny.build(options=options))
    assert turing.engine is not None
    assert turing.engine.compute_capabilities == ("7.5", "12.0")
    assert turing.section["options"] == {"compute_capabilities": ["7.5", "12.0"]}
    assert BuildOptions.from_json(turing.section["options"]) == options
    assert turing.section["executed"] == "not run on a GPU"


def loads(path: Path, machine: str, tensorrt: str | None = trt.__version__) -> str:
    return engine_fit(artifact.read(path), machine, tensorrt).verdict


def test_the_doctor_knows_where_a_plan_loads(tmp_path: Path) -> None:
    """A real plan, then the same one built again for other GPUs."""
    path = tiny.handed_over(tmp_path / "a", target="trt-rtx", precision="int8")
    with pytest.raises(Missing, match="is not compiled"):
        loads(path, "rtx-4090")
    finish(path)
    for machine in ("rtx-3060", "rtx-4090", "rtx-5090", "a100"):
        assert loads(path, machine) == "loads"
    for machine in ("t4", "h100", "jetson-orin-jp6.2"):
        assert loads(path, machine) == "does not load"
    assert loads(path, "rtx-4090", "1.6.0") == "does not load"
    assert loads(path, "rtx-4090", None) == "unknown"
    done = finish(path, BuildOptions(compute_capabilities=("7.5",)), force=True)
    assert done.file(ENGINE).stat().st_size > 1000
    assert loads(path, "t4") == "loads"
    assert loads(path, "rtx-4090") == "does not load"


def test_a_plan_tells_nothing_of_its_layers(tmp_path: Path) -> None:
    path = finish(tiny.handed_over(tmp_path / "a", target="trt-rtx", precision="int8")).path
    with pytest.raises(Missing, match="no record of an engine's layers") as caught:
        inspect(path).require_int8()
    assert "without a driver" in str(caught.value.hint)


def test_unknown_compute_capability_lists_the_known(tmp_path: Path) -> None:
    options = BuildOptions(compute_capabilities=("8.6", "5.0"))
    with pytest.raises(WrongUse, match=r"can't compile for 5\.0") as caught:
        _tensorrt.build_plan(trt, tiny.folder(tmp_path), tiny.build(options=options), AMPERE)
    assert "7.5, 8.0, 8.6, 8.9, 12.0" in str(caught.value.hint)


def test_dla_that_is_not_there_is_missing(tmp_path: Path) -> None:
    with pytest.raises(Missing, match="no DLA core 0; it has 0"):
        _tensorrt.build_plan(
            trt, tiny.folder(tmp_path), tiny.build(options=BuildOptions(dla_core=0)), AMPERE
        )


def test_phases_count_inside_each_other() -> None:
    phases = Phases()
    phases.start("whole", 4)
    phases.step("whole")
    assert phases.percent == 25
    phases.start("inner", 2)
    phases.step("inner")
    assert (phases.percent, phases.innermost) == (37, "inner")  # 1/4 + 1/2 of 1/4
    phases.finish("inner")
    assert (phases.percent, phases.innermost) == (37, "whole"), "never goes back"
    for _ in range(3):
        phases.step("whole")
    assert phases.percent == 99, "100 is for when the plan is there"
