"""Every name of TensorRT that our code uses exists in TensorRT 10.13, in 11, and where it runs.

The names are read off our own source: what is reached from ``trt`` and from variables that, by
convention in these files, hold TensorRT's objects (:data:`ROLES`).
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
FILES = sorted((ROOT / "exporter" / "targets").glob("*tensorrt*.py")) + [
    ROOT / "exporter" / "targets" / name for name in ("trt.py", "trt_rtx.py")
]
ROLES = {
    "trt": "",
    "builder": "Builder",
    "config": "IBuilderConfig",
    "network": "INetworkDefinition",
    "parser": "OnnxParser",
    "error": "ParserError",
    "profile": "IOptimizationProfile",
    "tensor": "ITensor",
    "layer": "ILayer",
    "cache": "ITimingCache",
    "runtime": "Runtime",
    "engine": "ICudaEngine",
    "context": "IExecutionContext",
    "inspector": "EngineInspector",
}
OWN = {"log", "monitor", "kind", "arguments", "severity", "values"}  # of ours, of cuda-python
PYTHONS = {"__init__", "__members__", "__name__"}
RTX_ONLY = {
    "ComputeCapability",
    "CudaGraphStrategy",
    "CudaGraphStrategy.WHOLE_GRAPH_CAPTURE",
    "DynamicShapesKernelSpecializationStrategy",
    "DynamicShapesKernelSpecializationStrategy.EAGER",
    "IBuilderConfig.num_compute_capabilities",
    "IBuilderConfig.set_compute_capability",
}
# What releases without strongly typed networks are told by, found by feature detection.
ONLY_BEFORE_10 = {"BuilderFlag.FP16", "BuilderFlag.INT8"}


def dotted(node: ast.AST) -> str | None:
    """Resolve an expression to TensorRT's name for it: ``builder.reset`` to ``Builder.reset``."""
    if isinstance(node, ast.Name):
        return ROLES.get(node.id)
    if isinstance(node, ast.Attribute):
        if isinstance(node.value, ast.Name) and node.value.id == "self":
            return ROLES.get(node.attr.lstrip("_"))
        base = dotted(node.value)
        return None if base is None else f"{base}.{node.attr}".lstrip(".")
    if isinstance(node, ast.Call):
        made = dotted(node.func)  # trt.Runtime(log) is a Runtime
        return made if made and "." not in made and made[0].isupper() else None
    return None


def names_in(source: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute) and node.attr not in PYTHONS:
            name = dotted(node)
            is_role = isinstance(node.value, ast.Name) and node.value.id == "self"
            if name and not is_role:
                yield name
        elif isinstance(node, ast.ClassDef):
            for base in filter(None, map(dotted, node.bases)):
                yield from (
                    f"{base}.{item.name}"
                    for item in node.body
                    if isinstance(item, ast.FunctionDef) and not item.name.startswith("_")
                )


def used() -> set[str]:
    return {name for file in FILES for name in names_in(file.read_text(encoding="utf-8"))}


def listed(version: str) -> set[str]:
    file = ROOT / "tests" / "data" / f"tensorrt_api_{version}.txt"
    return {line for line in file.read_text().splitlines() if not line.startswith("#")}


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("trt.BuilderFlag.TF32", {"BuilderFlag", "BuilderFlag.TF32"}),
        ("config.set_flag(1)", {"IBuilderConfig.set_flag"}),
        ("self._engine.get_tensor_mode(n)", {"ICudaEngine.get_tensor_mode"}),
        (
            "trt.Runtime(log).deserialize_cuda_engine(b)",
            {"Runtime", "Runtime.deserialize_cuda_engine"},
        ),
        ("trt.__name__, log.errors, network", set()),
        (
            "class L(trt.ILogger):\n def log(self): pass\n def _own(self): pass",
            {"ILogger", "ILogger.log"},
        ),
    ],
)
def test_the_name_finder_sees_every_form(source: str, names: set[str]) -> None:
    assert set(names_in(source)) == names


def test_it_finds_what_is_known_to_be_used() -> None:
    assert {
        "Builder.build_serialized_network",
        "IBuilderConfig.can_run_on_DLA",
        "IExecutionContext.execute_async_v3",
        "IProgressMonitor.step_complete",
        "NetworkDefinitionCreationFlag.STRONGLY_TYPED",
    } <= used()


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_no_tensorrt_object_has_a_name_that_is_not_looked_at(file: Path) -> None:
    """Whatever is untyped, as TensorRT's objects are, has one of the names of ``ROLES``."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, (ast.FunctionDef, ast.Lambda)):
            untyped = {
                arg.arg
                for arg in [*node.args.args, *node.args.kwonlyargs]
                if arg.annotation is not None and ast.unparse(arg.annotation) == "Any"
            }
            assert untyped <= {*ROLES, *OWN}, f"line {node.lineno}"


@pytest.mark.parametrize("version", ["10.13", "11"])
def test_names_exist_in_both_releases(version: str) -> None:
    assert used() - RTX_ONLY - listed(version) == set()


def test_flags_for_old_releases_are_gone_from_11_and_never_named_in_code() -> None:
    assert listed("10.13") >= ONLY_BEFORE_10
    assert not listed("11") & ONLY_BEFORE_10
    assert not used() & ONLY_BEFORE_10


def test_a_removed_name_would_fail() -> None:
    assert set(names_in("config.int8_calibrator = c")) - listed("11")
    assert not set(names_in("config.int8_calibrator = c")) - listed("10.13")


def test_names_exist_in_the_module_that_is_here() -> None:
    trt = pytest.importorskip("tensorrt_rtx", reason="pip install 'exporter[rtx]'")
    missing = []
    for name in sorted(used()):
        here = trt
        for part in name.split("."):
            here = getattr(here, part, None)
        if here is None:
            missing.append(name)
    assert missing == []
