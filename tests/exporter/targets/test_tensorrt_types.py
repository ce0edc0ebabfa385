"""Every call of TensorRT fits the types that NVIDIA's API of 10.13 has, by mypy.

The types are those of the package `tensorrt-stubs`, generated from the bindings. They are fetched
into a folder of their own: beside the project they would pass for TensorRT itself. cuda-python
comes without types; its names are checked in `test_compile_command.py`.
"""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[3]
TARGETS = ROOT / "exporter" / "targets"
FILES = [*sorted(TARGETS.glob("*tensorrt*.py")), TARGETS / "trt.py"]
STUBS = "tensorrt-stubs==10.13.0.35.1"
Check = Callable[..., str]

# What the generator of the stubs got wrong, each with what the bindings do.
MENDED = (
    # A parameter of NVIDIA's called `in`, which Python has a keyword for.
    (r"\bin: ", "in_: "),
    # A default missing behind parameters that have one.
    (r"(power: Weights = None, channel_axis: int)\)", r"\1 = ...)"),
    # pybind11 takes any sequence of integers for Dims, and iterates it by its length.
    (r"(\w+): Dims\b", r"\1: Dims | typing.Sequence[int]"),
    (r"(class Dims:\n)", r"\1    def __iter__(self) -> typing.Iterator[int]: ...\n"),
)


@pytest.fixture(scope="module")
def check(tmp_path_factory: pytest.TempPathFactory) -> Check:
    """A function that has mypy check files and returns the errors in them."""
    folder = tmp_path_factory.mktemp("stubs")
    pip = [sys.executable, "-m", "pip", "install", "-qq", "--no-deps", "--target", folder, STUBS]
    done = subprocess.run(pip, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    stub = folder / "tensorrt_bindings" / "tensorrt.pyi"
    text = stub.read_text()
    for wrong, right in MENDED:
        text, count = re.subn(wrong, right, text)
        assert count, f"{wrong} is nowhere: the stubs are other ones"
    ast.parse(text)
    stub.write_text(text)

    def run(*files: Path) -> str:
        mypy = [sys.executable, "-m", "mypy", "--follow-imports=silent", "--no-error-summary"]
        mypy += [
            "--cache-dir",
            str(folder / "cache"),
            "--config-file",
            str(ROOT / "pyproject.toml"),
        ]
        found = subprocess.run(
            [*mypy, *map(str, files)],
            cwd=ROOT,
            env={**os.environ, "MYPYPATH": str(folder)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert not found.stderr, found.stderr
        # The stubs have hundreds of errors of their own.
        return "\n".join(line for line in found.stdout.splitlines() if str(folder) not in line)

    return run


def test_every_call_fits(check: Check) -> None:
    assert check(*FILES) == ""


@pytest.mark.parametrize(
    ("right", "wrong", "message"),
    [
        ("builder.create_builder_config()", "builder.create_config()", "has no attribute"),
        ("add_optimization_profile(profile)", "add_optimization_profile(network)", "incompatible"),
        ("network.get_input(index)", "network.get_input(index, 0)", "Too many"),
        ("network.num_inputs", "network.inputs", "has no attribute"),
    ],
)
def test_a_wrong_call_is_seen(
    check: Check, tmp_path: Path, right: str, wrong: str, message: str
) -> None:
    text = (TARGETS / "_tensorrt.py").read_text(encoding="utf-8")
    assert right in text
    changed = tmp_path / "changed.py"
    changed.write_text(text.replace(right, wrong))
    assert message in check(changed)
