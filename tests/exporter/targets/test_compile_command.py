"""``exporter compile`` as users meet it, and what else a target machine runs."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from exporter import targets
from exporter.cli.main import main
from exporter.errors import Missing
from exporter.machine.install import pip_line
from exporter.targets import row, trt
from exporter.targets import tensorrt_runner as _tensorrt_runner
from tests.exporter.targets import tiny
from tests.exporter.targets.conftest import STAND_INS

ROOT = Path(__file__).parents[3]
# Imports of these fail as on a machine that never had them.
NOT_THERE = """
import sys
class NotThere:
    names = {"keras", "tensorflow", "tf2onnx", "onnxruntime", "openvino", "h5py", "scipy"}
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in self.names:
            raise ModuleNotFoundError(f"not on a target machine: {name}", name=name)
sys.meta_path.insert(0, NotThere())
"""


def run(*args: object) -> Result:
    result = CliRunner().invoke(main, [str(arg) for arg in args])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def test_it_says_what_was_built(stand_ins: Any, tmp_path: Path) -> None:
    path = tiny.handed_over(tmp_path / "a", precision="int8", batch=1)
    done = run("compile", path, "--dla-core", "0", "--workspace", "64", "--json")
    assert done.exit_code == 0, done.output
    section = json.loads(done.stdout)["trt"]
    assert section["options"] == {"workspace_mib": 64, "dla_core": 0}
    assert "layers on DLA: 3/4 the rest on the GPU: node_relu" in done.stderr
    assert "build with tensorrt: 100/100" in done.stderr


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        ((), 4, ("module tensorrt is not installed", "--system-site-packages")),
        (("--compute-capability", "8.6"), 2, ("'trt' does not take", "trt-rtx")),
        (("--dla-core", "0"), 2, ("--precision is fp32",)),
        (("--opt-level", "9"), 2, ("0<=x<=5",)),
    ],
)
def test_it_ends_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...], code: int, words: Any
) -> None:
    monkeypatch.setattr(trt, "MODULE", "tensorrt_that_is_not_here")
    done = run("compile", tiny.handed_over(tmp_path / "a"), *options)
    assert done.exit_code == code, done.output
    for word in words:
        assert word in done.stderr


def test_rtx_without_its_module_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(Missing, match="needs tensorrt_rtx") as caught:
        targets.lookup("trt-rtx").load()
    assert (caught.value.exit_code, caught.value.hint) == (4, pip_line("cpu,rtx"))


QUICK = ("--against", "none", "--batch", "2", "--seconds", "0", "--warm-up", "0")


def act_as_target(python: Path | str, path: Path, extra: Path, *more: list[Any]) -> list[Any]:
    """Compile, inspect, ask the doctor, and do more, in processes of their own."""
    answers = []
    home = str(path.parent / "home")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(extra), str(ROOT)])}
    environment |= {"XDG_CACHE_HOME": home, "PYTHONDONTWRITEBYTECODE": "1"}
    for command in (["compile", path], ["inspect", path], ["doctor"], *more):
        line = [python, "-c", "from exporter.cli.main import main; main()", *command, "--json"]
        done = subprocess.run(
            line, env=environment, capture_output=True, text=True, check=False, timeout=120
        )
        assert done.returncode == 0, done.stderr
        answer = json.loads(done.stdout)
        answers.append(answer)
        if command[0] in ("compile", "inspect"):
            assert answer["trt"]["compiled"] is True
            assert answer["engine"]["gpu"] == "Stand-in GPU"
    return answers


@pytest.mark.slow
def test_a_target_machine_needs_no_framework_and_no_runtime(tmp_path: Path) -> None:
    extra = tmp_path / "extra"
    shutil.copytree(STAND_INS, extra)
    (extra / "sitecustomize.py").write_text(NOT_THERE)
    path = tiny.handed_over(tmp_path / "a")
    *_, bench = act_as_target(sys.executable, path, extra, ["bench", path, *QUICK])
    assert bench["settings"]["images"] == "uniform noise", "there is no data either"
    graph, plain = bench["rows"]
    assert (graph["error"], plain["error"]) == (None, None)
    assert plain["engine"] == f"{graph['engine']} (no CUDA graph)"


def python_3_10() -> Path | None:
    """Return the oldest Python we support, as .ci/run finds it."""
    candidates = sorted(Path.home().glob(".pyenv/versions/3.10.*/bin/python"))
    on_path = shutil.which("python3.10")
    candidates += [Path(on_path)] if on_path else []
    check = "import sys, venv, ensurepip; sys.exit(sys.version_info[:2] != (3, 10))"
    for candidate in candidates:
        if (
            subprocess.run([candidate, "-c", check], capture_output=True, check=False).returncode
            == 0
        ):
            return candidate
    return None


@pytest.mark.slow
def test_the_extra_target_is_enough_on_python_3_10(tmp_path: Path) -> None:
    """A bare environment with that extra alone; TensorRT and the GPU are stand-ins."""
    python = python_3_10()
    if python is None:
        pytest.skip("no python3.10 with venv on the PATH or under ~/.pyenv/versions")
    venv = tmp_path / "venv"
    subprocess.run([python, "-m", "venv", venv], check=True)
    pip = [venv / "bin" / "python", "-m", "pip", "install", "-qq"]
    done = subprocess.run(
        [*pip, "--editable", f"{ROOT}[target]"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    extra = tmp_path / "extra"
    extra.mkdir()
    for name in ("tensorrt.py", "pynvml.py"):  # and the real cuda-python
        shutil.copy(STAND_INS / name, extra)
    act_as_target(venv / "bin" / "python", tiny.handed_over(tmp_path / "a"), extra)
    absent = "import importlib.util as u; assert not any(map(u.find_spec, {}))"
    names = ["tensorflow", "keras", "onnxruntime", "scipy", "matplotlib"]
    subprocess.run([venv / "bin" / "python", "-c", absent.format(names)], check=True)
    checked = (
        "from cuda.bindings import runtime as r; assert all(hasattr(r, n) for n in {}), dir(r)"
    )
    names = sorted(cuda_names())
    subprocess.run([venv / "bin" / "python", "-c", checked.format(names)], check=True)


def cuda_names() -> set[str]:
    """Return what the runner uses of cuda-python, read off its source."""
    source = Path(_tensorrt_runner.__file__).read_text(encoding="utf-8")
    return {*re.findall(r'_call\(\s*"(\w+)"', source), *re.findall(r"self\._cuda\.(\w+)", source)}


def test_the_names_of_cuda_python_are_found() -> None:
    assert {
        "cudaMalloc",
        "cudaGraphLaunch",
        "cudaMemcpyKind",
        "cudaStreamEndCapture",
    } <= cuda_names()
