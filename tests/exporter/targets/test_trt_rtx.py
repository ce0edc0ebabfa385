"""The whole way to TensorRT-RTX plans as a user goes it: export, doctor, inspect the ResNet-18."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from exporter.artifact import folder as artifact
from exporter.cli.main import main

trt: Any = pytest.importorskip("tensorrt_rtx", reason="pip install 'exporter[rtx]'")
QUICK = ("--batch", "1:8:16", "--calibrator", "minmax", "--calibration-images", 32)


def run(*args: object) -> Result:
    """Run a command in this process; a stack trace is a failure of the test."""
    result = CliRunner().invoke(main, [str(arg) for arg in args], env={"COLUMNS": "200"})
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


@pytest.mark.tf
@pytest.mark.data
@pytest.mark.slow
def test_from_the_command_line_to_a_verdict(tmp_path: Path) -> None:
    plan_bytes = {}
    for precision in ("fp32", "int8"):
        given = ["--to", "trt-rtx", "--precision", precision, *QUICK, "-o", tmp_path / precision]
        done = run("export", "resnet18", *given)
        assert done.exit_code == 0, done.output
        made = artifact.read(tmp_path / precision)
        section = made.passport["trt-rtx"]
        assert section["compiled"] is True
        # FP16 is around INT8, and its scales are FP16 too; the builder tells that it widens them.
        unexpected = [text for text in section["warnings"] if "scales to fp32" not in text]
        assert unexpected == []
        assert made.passport["engine"]["profile"]["input"]["max"] == [16, 96, 96, 1]
        plan_bytes[precision] = made.file("engine.plan").stat().st_size
    assert made.passport["int8"]["scheme"] == "tensorrt"
    # Weights are nearly all of it: a quarter, and some for what has no INT8 weights.
    assert 3 * plan_bytes["int8"] <= plan_bytes["fp32"], plan_bytes
    check_what_the_doctor_says(made.path)
    check_what_inspect_says(made.path)


def check_what_the_doctor_says(path: Path) -> None:
    version = ("--tensorrt", trt.__version__)
    turing = run("doctor", path, "--for", "t4", *version)
    assert turing.exit_code == 3, turing.output
    assert "T4 has 7.5" in turing.stderr
    ada = run("doctor", path, "--for", "rtx-4090", *version)
    assert ada.exit_code == 0, ada.output
    assert "loads" in ada.stdout
    assert run("doctor", path, "--for", "rtx-4090").exit_code == 4, "which version is there?"
    assert run("doctor", path, "--for", "jetson-orin-jp6.2").exit_code == 3
    plan = (path / "engine.plan").read_bytes()
    (path / "engine.plan").write_bytes(plan + b"\0")
    assert "SHA-256 differs" in run("doctor", path, "--for", "rtx-4090", *version).stderr
    (path / "engine.plan").write_bytes(plan)


def check_what_inspect_says(path: Path) -> None:
    shown = run("inspect", path)
    assert shown.exit_code == 0, shown.output
    assert "trt-rtx, int8" in shown.stdout
    assert "20 Conv" in shown.stdout
    assert json.loads(run("inspect", path, "--json").stdout)["target"] == "trt-rtx"
    demanded = run("inspect", path, "--require", "int8")
    assert demanded.exit_code == 4, "a plan's kernels are chosen when a GPU loads it"
