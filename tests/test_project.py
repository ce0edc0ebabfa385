"""What holds for the project as a whole: who imports whom, who prints, how it starts."""

from __future__ import annotations

import ast
import importlib.metadata
import json
import re
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from exporter.models import zoo

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
PACKAGES = ("benchmarks", "exporter", "calibration")  # each may import those behind it
HEAVY = {
    "cuda",
    "h5py",
    "keras",
    "matplotlib",
    "onnxruntime",
    "openvino",
    "scipy",
    "tensorflow",
    "tensorrt",
    "tensorrt_rtx",
    "tf2onnx",
}
MOST_LINES = 400


def sources(*folders: str) -> list[Path]:
    return sorted(file for folder in folders for file in (ROOT / folder).rglob("*.py"))


def label(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def is_command_line(path: Path) -> bool:
    """Whether a file belongs to the one place that prints."""
    return path.relative_to(ROOT).parts[:2] == ("exporter", "cli")


def is_edge(path: Path) -> bool:
    """Whether a file belongs to a place that imports across: the commands and the Python API."""
    return is_command_line(path) or path.relative_to(ROOT).parts[:2] == ("exporter", "api")


def imported(path: Path, module: ast.Module) -> Iterator[tuple[int, str]]:
    """Yield (line, full name) of every import anywhere in a file, the indirect ones too."""
    package = list(path.relative_to(ROOT).parts[:-1])
    for node in ast.walk(module):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            for alias in node.names:
                yield node.lineno, f"{base}.{alias.name}"
        elif isinstance(node, ast.Call) and node.args:
            name = node.func.attr if isinstance(node.func, ast.Attribute) else None
            name = node.func.id if isinstance(node.func, ast.Name) else name
            first = node.args[0]
            if name in ("import_module", "__import__") and isinstance(first, ast.Constant):
                yield node.lineno, str(first.value)


def imports_of(path: Path) -> list[tuple[int, str]]:
    return list(imported(path, tree(path)))


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("import benchmarks.drift as d", ["benchmarks.drift"]),
        ("from benchmarks import drift", ["benchmarks.drift"]),
        ("def f():\n    from .. import errors", ["exporter.errors"]),
        ("from . import table", ["exporter.targets.table"]),
        ("importlib.import_module('benchmarks.drift')", ["benchmarks.drift"]),
    ],
)
def test_the_import_finder_sees_every_form(source: str, names: list[str]) -> None:
    file = ROOT / "exporter" / "targets" / "ort.py"
    assert [name for _, name in imported(file, ast.parse(source))] == names


@pytest.mark.parametrize("file", sources(*PACKAGES), ids=label)
def test_imports_go_one_way(file: Path) -> None:
    if is_edge(file):
        return
    above = PACKAGES[: PACKAGES.index(file.relative_to(ROOT).parts[0])]
    wrong = [(line, name) for line, name in imports_of(file) if name.split(".")[0] in above]
    assert not wrong, f"benchmarks -> exporter -> calibration, never back: {wrong}"


@pytest.mark.parametrize("file", sources("calibration", "exporter/passes"), ids=label)
def test_graph_code_knows_no_framework_and_no_runtime(file: Path) -> None:
    wrong = [(line, name) for line, name in imports_of(file) if name.split(".")[0] in HEAVY]
    assert not wrong, f"knows graphs and arrays only: {wrong}"


@pytest.mark.parametrize("file", sources("exporter/passes"), ids=label)
def test_passes_know_no_data_sets_and_no_targets(file: Path) -> None:
    outside = (
        "exporter.data.datasets",
        "exporter.targets",
        "exporter.models",
        "exporter.network.frontend",
    )
    wrong = [(line, name) for line, name in imports_of(file) if name.startswith(outside)]
    assert not wrong, f"a pass sees one graph: {wrong}"


def prints(node: ast.AST) -> bool:
    if not isinstance(node, ast.Call):
        return False
    if isinstance(node.func, ast.Name):
        return node.func.id == "print"
    return ast.unparse(node.func) in {
        "builtins.print",
        "click.echo",
        "click.secho",
        "rich.print",
        "sys.stderr.write",
        "sys.stdout.write",
    }


@pytest.mark.parametrize("file", sources("exporter", "calibration"), ids=label)
def test_only_the_command_line_prints(file: Path) -> None:
    if is_command_line(file):
        return
    lines = [node.lineno for node in ast.walk(tree(file)) if prints(node)]
    assert not lines, f"report through Progress or a return value; prints in lines {lines}"


@pytest.mark.parametrize("file", sources(*PACKAGES, "tests"), ids=label)
def test_files_stay_readable_in_one_sitting(file: Path) -> None:
    count = len(file.read_text(encoding="utf-8").splitlines())
    assert count <= MOST_LINES, f"{count} lines: this wants to be two files"


HELP = """
import json, sys
before = set(sys.modules)
from exporter.cli.main import main
sys.argv = ["exporter", "--help"]
try:
    main()
except SystemExit as end:
    assert not end.code, end.code
json.dump(sorted({name.partition(".")[0] for name in set(sys.modules) - before}), sys.stderr)
"""


def test_help_loads_only_what_it_needs() -> None:
    # An allow-list: a heavy library nobody has thought of yet can't slip in.
    allowed = {*PACKAGES, "click", "rich", "markdown_it", "mdurl", "pygments", "numpy"}
    done = subprocess.run(
        [sys.executable, "-c", HELP], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert "Usage" in done.stdout
    loaded = set(json.loads(done.stderr.splitlines()[-1]))
    ours = {name for name in loaded if not name.startswith(("_cython", "cython_runtime"))}
    assert ours - allowed - set(sys.stdlib_module_names) == set()


def processor_seconds(code: str) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, timeout=60)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def test_help_answers_within_half_a_second_of_python_itself() -> None:
    # Processor time, which is the wall's on an idle machine: on a busy one the wall would
    # time its other work. The least of several: neighbours only ever add, through the caches.
    processor_seconds(HELP)  # writes the byte code
    pairs = [(processor_seconds(HELP), processor_seconds("pass")) for _ in range(7)]
    assert min(ours for ours, _ in pairs) - min(bare for _, bare in pairs) <= 0.5


def declared() -> dict[str, Any]:
    with (ROOT / "pyproject.toml").open("rb") as file:
        project: dict[str, Any] = tomllib.load(file)["project"]
    return project


def test_one_version_everywhere() -> None:
    import exporter

    version = declared()["version"]
    assert importlib.metadata.version("exporter") == version, "run make setup"
    assert exporter.__version__ == version
    assert f"## [{version}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_both_commands_are_installed() -> None:
    scripts = importlib.metadata.entry_points(group="console_scripts")
    for name, target in declared()["scripts"].items():
        assert callable(scripts[name].load()), target


def test_every_dependency_is_bounded_on_both_sides() -> None:
    project = declared()
    extras = project["optional-dependencies"].values()
    requirements = [*project["dependencies"], *(line for extra in extras for line in extra)]
    unbounded = [
        line
        for line in requirements
        if not line.startswith(("exporter[", "tomli")) and not (">=" in line and "<" in line)
    ]
    assert not unbounded


@pytest.mark.parametrize(("folders", "installs"), [("{0}/none {0}/either", True), ("{0}", False)])
def test_make_installs_the_data_exactly_where_no_folder_has_them(
    tmp_path: Path, folders: str, installs: bool
) -> None:
    """Of two empty folders make's foreach leaves a space, which its `if` takes for a file."""
    (tmp_path / "t10k-images-idx3-ubyte.gz").touch()
    shown = subprocess.run(
        ["make", "--dry-run", "data", f"DATA_FOLDERS={folders.format(tmp_path)}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert ("apt-get install -y -qq dataset-fashion-mnist" in shown.stdout) is installs


def test_ci_builds_every_model_of_the_zoo() -> None:
    script = ROOT / ".ci" / "run"
    if not script.is_file():
        pytest.skip("a source release has no .ci")
    halves = re.findall(r"^HALVES\+?=\((.*)\)$", script.read_text(), re.MULTILINE)
    assert sorted(",".join(halves).split(",")) == sorted(zoo.ZOO)
