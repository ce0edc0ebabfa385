"""How each release of TensorRT is told the precision, and what a DLA takes: by stand-ins."""

from __future__ import annotations

from enum import IntEnum
from pathlib import Path
from typing import Any

import pytest

from exporter.engines import record as engine_record
from exporter.errors import WrongUse
from exporter.finish import finish
from exporter.targets import _tensorrt
from tests.exporter.targets import tiny
from tests.exporter.targets.tiny import told


def test_a_release_without_typed_networks_is_told_by_flags(
    stand_ins: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TensorRT 8.6, as its documentation has it: no such flag, and no progress monitor."""
    creation = IntEnum("NetworkDefinitionCreationFlag", {"EXPLICIT_BATCH": 0})
    flags = IntEnum("BuilderFlag", {"FP16": 0, "INT8": 1, "TF32": 7})
    monkeypatch.setattr(stand_ins, "NetworkDefinitionCreationFlag", creation)
    monkeypatch.setattr(stand_ins, "BuilderFlag", flags)
    monkeypatch.delattr(stand_ins.Config, "progress_monitor")
    done = finish(tiny.handed_over(tmp_path / "a", precision="int8"))
    assert done.passport["trt"]["typing"] == "flags: INT8"
    assert told(done.path)["flags"] == ["TF32", "INT8"]
    assert told(done.path)["network"] == 1
    monkeypatch.setattr(_tensorrt, "_has_half", lambda _: True)
    with pytest.raises(WrongUse, match="needs FP32 scales for Q/DQ") as caught:
        finish(tiny.handed_over(tmp_path / "b", precision="int8"))
    assert "--rest fp32" in str(caught.value.hint)


class Flags(IntEnum):
    """BuilderFlag before TensorRT 11."""

    FP16, INT8, GPU_FALLBACK, TF32, VERSION_COMPATIBLE = 0, 1, 3, 7, 14


class Explicit(IntEnum):
    EXPLICIT_BATCH = 0
    STRONGLY_TYPED = 1


@pytest.fixture
def before_11(stand_ins: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stand_ins, "BuilderFlag", Flags)
    monkeypatch.setattr(stand_ins, "NetworkDefinitionCreationFlag", Explicit)


def test_before_11_flags_switch_a_dla_on(before_11: None, tmp_path: Path) -> None:
    options = {"dla_core": 0}
    done = finish(tiny.handed_over(tmp_path / "a", precision="fp16", batch=1, options=options))
    assert done.passport["trt"]["typing"] == "flags: FP16"
    assert told(done.path)["flags"] == ["TF32", "FP16", "GPU_FALLBACK"]
    assert told(done.path)["network"] == 1 << Explicit.EXPLICIT_BATCH
    plain = finish(tiny.handed_over(tmp_path / "b", precision="fp16", batch=1))
    assert plain.passport["trt"]["typing"] == "strongly typed"


def test_before_11_a_dla_takes_no_qdq(before_11: None, tmp_path: Path) -> None:
    path = tiny.handed_over(tmp_path / "a", precision="int8", batch=1, options={"dla_core": 0})
    with pytest.raises(WrongUse, match="can't run a graph with Q/DQ on a DLA") as caught:
        finish(path)
    assert "--precision fp16" in str(caught.value.hint)


def test_layers_that_leave_the_dla_are_named_before_the_build(
    stand_ins: Any, tmp_path: Path
) -> None:
    lines: list[str] = []
    path = tiny.handed_over(tmp_path / "a", precision="int8", batch=1, options={"dla_core": 1})
    done = finish(
        path,
        progress=lambda stage, at, total, note="": lines.append(f"{stage} {at}/{total} {note}"),
    )
    assert lines[0] == "layers on DLA 3/4 the rest on the GPU: node_relu"
    assert done.passport["trt"]["dla"] == {"layers": 4, "on_gpu": ["node_relu"]}
    assert engine_record.read(done).dla_core == 1
    assert told(path)["flags"] == ["TF32", "GPU_FALLBACK"], "INT8 leaves TF32 to TensorRT"
    assert (told(path)["DLA_core"], told(path)["default_device_type"]) == (1, 1)
