"""Artifacts of ``ort-cuda`` and its kin: exported anywhere, finished where the GPU is.

The real onnxruntime opens them here on its CPU provider, in CUDA's place, or on Azure's, which
takes no node. Nothing here ran on a GPU.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from exporter import targets
from exporter.artifact import folder as artifact
from exporter.cli import passport
from exporter.config import Batch, BuildOptions
from exporter.errors import ExporterError, Missing
from exporter.finish import finish
from exporter.machine.gpus import Gpu, Gpus
from exporter.targets import _ort_two_steps, ort_cuda, ort_trt
from exporter.targets._ort_providers import CUDA, TENSORRT, TENSORRT_RTX, Provider
from exporter.targets._ort_two_steps import Wanted, profiles
from tests.exporter.targets.tiny import build, folder, graph, handed_over

pytestmark = pytest.mark.skipif(
    not hasattr(ort.InferenceSession, "get_provider_graph_assignment_info"),
    reason=f"onnxruntime {ort.__version__} can't tell where its nodes run",
)
CPU = Provider("CPUExecutionProvider", "the CPU's provider", "ort")
AZURE = Provider("AzureExecutionProvider", "Azure's provider", "ort")
FEEDS = {"x": np.random.default_rng(0).normal(size=(2, 3, 16, 16)).astype(np.float32)}


@pytest.fixture(autouse=True)
def a_gpu_and_a_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    found = Gpus("a stand-in", (Gpu("Card X"),))
    monkeypatch.setattr(_ort_two_steps, "find_gpus", lambda: found)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def on_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ort_cuda, "CUDA", CPU)


@pytest.fixture
def on_azure(monkeypatch: pytest.MonkeyPatch) -> None:
    if AZURE.name not in ort.get_available_providers():
        pytest.skip("this onnxruntime has no Azure provider")
    monkeypatch.setattr(ort_cuda, "CUDA", AZURE)


def test_without_the_provider_it_is_handed_over(tmp_path: Path) -> None:
    if CUDA.name in ort.get_available_providers():
        pytest.skip("onnxruntime-gpu is installed here")
    section = ort_cuda.compile(folder(tmp_path / "a"), build()).section
    assert section["compiled"] is False
    assert section["why"] == "onnxruntime's CUDA provider is not installed"
    assert section["parser"] is None  # CUDA's provider does not parse by TensorRT
    with pytest.raises(Missing, match="CUDA provider is not installed"):
        ort_cuda.compile(folder(tmp_path / "a"), build(here=True))


def test_nvidias_parser_checks_what_its_providers_will_parse(tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx")
    section = ort_trt.compile(folder(tmp_path / "a"), build()).section
    assert section["parser"]["module"] == "tensorrt_rtx"
    with pytest.raises(ExporterError, match="zero point"):
        ort_trt.compile(folder(tmp_path / "b", zero_point=3), build())


@pytest.mark.usefixtures("on_cpu")
def test_finishing_records_where_nodes_run(tmp_path: Path) -> None:
    path = handed_over(tmp_path / "a", "ort-cuda")
    done = finish(path)
    section = done.passport["ort-cuda"]
    assert section["compiled"] is True
    assert section["gpu"] == "Card X"
    assert section["placement"]["nodes"] == {"CPUExecutionProvider": 4}
    assert section["placement"]["elsewhere"] == []
    assert "measured" not in done.passport
    lines = dict(passport.provider_lines(section))
    assert lines["nodes"] == "4 on CPUExecutionProvider"
    assert lines["compiled on"].startswith("Card X, onnxruntime ")
    with targets.open_artifact(artifact.read(path)) as runner:
        assert runner.infer(FEEDS)["y"].shape == (2, 4, 16, 16)


@pytest.mark.usefixtures("on_azure")
def test_a_fallback_is_refused_unless_it_is_allowed(tmp_path: Path) -> None:
    path = handed_over(tmp_path / "a", "ort-cuda")
    before = (path / "passport.json").read_bytes()
    with pytest.raises(ExporterError, match="nodes would run on CPU"):
        finish(path)
    assert (path / "passport.json").read_bytes() == before
    done = finish(path, BuildOptions(allow_fallback=True))
    section = done.passport["ort-cuda"]
    assert section["options"] == {"allow_fallback": True}
    assert len(section["placement"]["elsewhere"]) == 4
    shown = passport.provider_lines(section)
    assert ("  fell back", "Conv node_conv: CPUExecutionProvider") in shown
    with targets.open_artifact(artifact.read(path)) as runner:
        assert runner.infer(FEEDS)["y"].shape == (2, 4, 16, 16)


@pytest.mark.usefixtures("on_cpu")
def test_placement_is_read_again_at_every_opening(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another version of onnxruntime may decline what an older one took."""
    path = handed_over(tmp_path / "a", "ort-cuda")
    done = finish(path)
    if AZURE.name not in ort.get_available_providers():
        pytest.skip("this onnxruntime has no Azure provider")
    monkeypatch.setattr(ort_cuda, "CUDA", AZURE)
    with pytest.raises(ExporterError, match="instead of Azure"), targets.open_artifact(done):
        pass


@pytest.mark.usefixtures("on_cpu")
def test_a_changed_graph_is_not_opened(tmp_path: Path) -> None:
    path = handed_over(tmp_path / "a", "ort-cuda")
    (path / "model.onnx").write_bytes(graph(op="Abs"))
    with pytest.raises(ExporterError, match="SHA-256 differs"):
        targets.open_artifact(artifact.read(path))


def test_no_gpu_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ort_cuda, "CUDA", CPU)
    monkeypatch.setattr(_ort_two_steps, "find_gpus", lambda: Gpus("none", ()))
    path = handed_over(tmp_path / "a", "ort-cuda")
    with pytest.raises(Missing, match="no NVIDIA GPU on this machine"):
        targets.open_artifact(artifact.read(path))


def wanted(tmp_path: Path, batch: Batch, **build_options: bool) -> Wanted:
    options = BuildOptions(**build_options)  # type: ignore[arg-type]
    return Wanted(graph(shape="N,3,16,16"), "fp32", batch, options, tmp_path)


def test_tf32_is_off_unless_it_is_asked_for(tmp_path: Path) -> None:
    assert ort_cuda.options(wanted(tmp_path, Batch())) == {"use_tf32": "0"}
    assert ort_cuda.options(wanted(tmp_path, Batch(), tf32=True)) == {"use_tf32": "1"}


def test_a_range_of_batch_sizes_becomes_a_profile(tmp_path: Path) -> None:
    asked = wanted(tmp_path, Batch(1, 8, 32))
    assert profiles(asked, TENSORRT) == {
        "trt_profile_min_shapes": "x:1x3x16x16",
        "trt_profile_opt_shapes": "x:8x3x16x16",
        "trt_profile_max_shapes": "x:32x3x16x16",
    }
    assert profiles(asked, TENSORRT_RTX)["nv_profile_max_shapes"] == "x:32x3x16x16"
    assert profiles(asked, CUDA) == {}


def test_tensorrts_flags_follow_the_graphs_types(tmp_path: Path) -> None:
    plain = ort_trt.options(wanted(tmp_path, Batch(1, 1, 4)))
    assert plain["trt_fp16_enable"] == "0"
    assert plain["trt_engine_cache_path"] == str(tmp_path)
    model = onnx.load_model_from_string(graph())
    half = onnx.numpy_helper.from_array(np.ones(1, np.float16), "h")
    model.graph.initializer.append(half)
    typed = Wanted(model.SerializeToString(), "int8", Batch(1, 1, 4), BuildOptions(), tmp_path)
    flags = ort_trt.options(typed)
    assert (flags["trt_fp16_enable"], flags["trt_int8_enable"]) == ("1", "1")


def test_what_is_compiled_lies_in_the_users_cache_alone(tmp_path: Path) -> None:
    folder = _ort_two_steps._cache(graph(), CUDA, "Card X")
    assert folder.parent == tmp_path / "cache" / "exporter" / "engines"
    assert folder.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("name", ["ort-cuda", "ort-trt", "ort-trt-rtx"])
def test_every_row_has_its_file(name: str) -> None:
    module = targets.lookup(name).load()
    assert callable(module.compile)
    assert callable(module.open)


@pytest.mark.tf
def test_evaluate_check_and_bench_know_these_targets(
    keras: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A network of one's own from export to the gate, with the CPU's provider in CUDA's place."""
    from click.testing import CliRunner

    from exporter.cli.main import main
    from tests.exporter.networks import plain

    def run(*given: object) -> Any:
        return CliRunner().invoke(main, [str(each) for each in given])

    images = np.random.default_rng(0).integers(0, 255, (40, 16, 16, 1)).astype(np.uint8)
    np.savez(tmp_path / "data.npz", images=images, labels=np.arange(40) % 3)
    data = ("--data", f"npz:{tmp_path / 'data.npz'}")
    plain(keras).save(tmp_path / "net.keras")
    exported = ("export", tmp_path / "net.keras", "--to", "ort-cuda", "--preprocess", "unit")
    path, book = tmp_path / "net-cuda", tmp_path / "baseline.json"
    assert run(*exported, *data, "-o", path).exit_code == 0
    gated = ("check", "--baseline", book, path)
    assert run(*gated, "--update", *data).exit_code == 0  # no engine yet: simulated
    assert run(*gated).exit_code == 0
    missing = run("evaluate", path, *data)
    assert (missing.exit_code, "ort-gpu" in missing.stderr) == (4, True)
    monkeypatch.setattr(ort_cuda, "CUDA", CPU)
    assert run("compile", path).exit_code == 0
    shown = run("inspect", path).stdout
    assert "CPUExecutionProvider" in shown
    evaluated = run("evaluate", path, *data)
    assert evaluated.exit_code == 0, evaluated.output
    assert run("evaluate", path, *data, "--ladder").exit_code == 0
