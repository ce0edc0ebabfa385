"""Sessions on a provider of onnxruntime's: where nodes run, and that a fallback is refused.

All of it runs the real onnxruntime of this machine. A CPU has no GPU provider, so Azure's stands in
for one that declines nodes (it takes none of ours), and the CPU's own for one that takes them all.
The clock of :class:`FakeClock` is the only stand-in; nothing here ran on a GPU.
"""

from __future__ import annotations

import ctypes
import importlib.util
import itertools
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from exporter.errors import ExporterError, Missing
from exporter.targets import _ort_gpu, _ort_placement, _ort_providers
from exporter.targets._ort_gpu import OrtGpuRunner, Request, cache_key, open_session
from exporter.targets._ort_placement import Placed
from exporter.targets._ort_providers import CUDA, TENSORRT_RTX, Provider, version_problem
from exporter.targets.ort import OrtRunner

pytestmark = pytest.mark.skipif(
    not hasattr(ort.InferenceSession, "get_provider_graph_assignment_info"),
    reason=f"onnxruntime {ort.__version__} can't tell where its nodes run",
)
CPU = Provider("CPUExecutionProvider", "the CPU's provider", "ort")
AZURE = Provider("AzureExecutionProvider", "Azure's provider", "ort")
needs_azure = pytest.mark.skipif(
    AZURE.name not in ort.get_available_providers(), reason="this onnxruntime has no Azure provider"
)
GRAPH = onnx.parser.parse_model(
    """<ir_version: 8, opset_import: ["" : 18]>
    g (float[N, 4] x) => (float[N, 4] y) {
        [relu] a = Relu(x)
        [double] y = Add(a, a)
    }"""
).SerializeToString()


class FakeClock:
    """Copies within the host's memory and counts: it shows how the marks are used, no time."""

    stream = 0

    def __init__(self, marks: int) -> None:
        self.at = [0.0] * marks
        self.ticks = itertools.count()
        self.open = True

    def close(self) -> None:
        self.open = False

    def mark(self, number: int) -> None:
        self.at[number] = float(next(self.ticks))

    def between(self, first: int, second: int) -> float:
        return self.at[second] - self.at[first]

    def copy_in(self, address: int, array: Any) -> None:
        next(self.ticks)
        ctypes.memmove(address, array.ctypes.data, array.nbytes)

    def copy_out(self, array: Any, address: int) -> None:
        ctypes.memmove(array.ctypes.data, address, array.nbytes)


class CpuRunner(OrtGpuRunner):
    """The runner on the CPU's provider, which has no option for a stream or a CUDA graph."""

    def _timed_request(self) -> Request:
        super()._timed_request()
        return self._request


@pytest.fixture
def timed(monkeypatch: pytest.MonkeyPatch) -> CpuRunner:
    monkeypatch.setattr(_ort_gpu, "CudaClock", FakeClock)
    runner = CpuRunner(GRAPH, Request(CPU), device="cpu")
    runner.time_batches(cuda_graph=False)
    return runner


@needs_azure
def test_a_session_that_would_fall_back_is_refused() -> None:
    with pytest.raises(ExporterError, match="2 of 2 nodes would run on CPU") as caught:
        open_session(GRAPH, Request(AZURE, what="mine-cuda"))
    assert caught.value.message == (
        "mine-cuda: 2 of 2 nodes would run on CPUExecutionProvider instead of "
        "AzureExecutionProvider: Relu relu, Add double"
    )
    assert "--allow-fallback" in str(caught.value.hint)


@needs_azure
def test_an_allowed_fallback_is_recorded_by_node() -> None:
    session, placement = open_session(GRAPH, Request(AZURE, allow_fallback=True))
    assert session.run(None, {"x": np.ones((1, 4), np.float32)})[0].tolist() == [[2, 2, 2, 2]]
    assert placement.as_json() == {
        "asked": "AzureExecutionProvider",
        "nodes": {"CPUExecutionProvider": 2},
        "elsewhere": [
            {"node": "relu", "op_type": "Relu", "provider": "CPUExecutionProvider"},
            {"node": "double", "op_type": "Add", "provider": "CPUExecutionProvider"},
        ],
    }


def test_a_session_that_runs_where_it_was_asked_to_is_accepted() -> None:
    _, placement = open_session(GRAPH, Request(CPU))
    assert placement.nodes == {"CPUExecutionProvider": 2}
    assert placement.elsewhere == ()


def test_many_nodes_are_counted_and_only_some_named() -> None:
    elsewhere = tuple(Placed(f"n{number}", "Conv", "X") for number in range(9))
    placement = _ort_placement.Placement("Y", {"X": 9, "Y": 3}, elsewhere)
    with pytest.raises(ExporterError) as caught:
        _ort_placement.refuse_fallback(placement, "it")
    assert caught.value.message == (
        "it: 9 of 12 nodes would run on X instead of Y: "
        "Conv n0, Conv n1, Conv n2, Conv n3, Conv n4 and 4 more"
    )


def test_a_provider_that_is_not_in_this_package() -> None:
    unknown = Provider("NoSuchExecutionProvider", "a provider of no package", "ort-gpu")
    with pytest.raises(Missing, match="a provider of no package is not installed") as caught:
        open_session(GRAPH, Request(unknown))
    assert "ort-gpu" in str(caught.value.hint)
    assert caught.value.exit_code == 4


def test_the_cpu_package_that_hides_the_gpus_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_ort_providers, "_is_installed", lambda name: True)
    hint = _ort_providers._install(CUDA)
    assert hint.startswith("pip uninstall onnxruntime onnxruntime-gpu; pip install ")


@pytest.mark.parametrize(
    ("driver", "built_for", "problem"),
    [
        (13000, "13.0", None),
        (13010, "13.0", None),
        (
            12080,
            "13.0",
            "the NVIDIA driver is too old: it supports CUDA 12.8, and this onnxruntime",
        ),
        (12080, "12.9", None),
        (12080, "", None),
    ],
)
def test_a_driver_that_is_too_old(driver: int, built_for: str, problem: str | None) -> None:
    found = version_problem(driver, built_for)
    assert (found is None) == (problem is None)
    assert found is None or found.startswith(problem or "")


def test_an_old_onnxruntime_can_not_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ort, "InferenceSession", object)
    with pytest.raises(Missing, match=r"can't tell where its nodes run.*you need 1\.24"):
        _ort_providers.require(CPU)


def test_a_plugin_that_is_not_installed() -> None:
    if importlib.util.find_spec(str(TENSORRT_RTX.plugin)):
        pytest.skip("the plugin is installed here")
    with pytest.raises(Missing, match="TensorRT-RTX provider is not installed") as caught:
        _ort_providers.require(TENSORRT_RTX)
    assert "ort-rtx" in str(caught.value.hint)


def test_a_graph_that_onnxruntime_refuses() -> None:
    with pytest.raises(ExporterError, match="refuses the graph"):
        open_session(b"no graph", Request(CPU))


def test_timed_batches_give_what_a_plain_run_gives(timed: CpuRunner) -> None:
    with OrtRunner(GRAPH) as plain, timed:
        for batch in (1, 3, 1, 3):  # shapes come back to the arrays that were bound for them
            feeds = {"x": np.random.default_rng(batch).normal(size=(batch, 4)).astype(np.float32)}
            np.testing.assert_array_equal(timed.infer(feeds)["y"], plain.infer(feeds)["y"])
            feeds["x"] += 1  # the same arrays on the device, other numbers
            np.testing.assert_array_equal(timed.infer(feeds)["y"], plain.infer(feeds)["y"])
        assert len(timed._bound) == 2
        assert len(timed.times) == 8
        assert timed.times[0].copy_in == 2  # a mark, one copy, a mark
        assert timed.times[0].enqueue > 0
        assert timed.device_settings["io_binding"] is True
        clock = timed._clock
    assert isinstance(clock, FakeClock)
    assert not clock.open


def test_half_precision_outputs_are_read_as_such(monkeypatch: pytest.MonkeyPatch) -> None:
    model = onnx.parser.parse_model(
        """<ir_version: 9, opset_import: ["" : 19]>
        g (float16[N, 2] x) => (float16[N, 2] y) { y = Identity(x) }"""
    ).SerializeToString()
    monkeypatch.setattr(_ort_gpu, "CudaClock", FakeClock)
    runner = CpuRunner(model, Request(CPU), device="cpu")
    runner.time_batches(cuda_graph=False)
    feeds = {"x": np.array([[1.5, -2]], np.float16)}
    with runner:
        got = runner.infer(feeds)["y"]
    assert got.dtype == np.float16
    assert got.tolist() == [[1.5, -2]]


def test_a_cuda_graph_and_the_stream_are_asked_of_the_provider(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Wiring only: what the provider does with them no CPU can show."""
    asked: list[Request] = []

    def refuse(model: bytes, request: Request) -> Any:
        asked.append(request)
        raise Missing("no GPU")

    monkeypatch.setattr(_ort_gpu, "CudaClock", FakeClock)
    monkeypatch.setattr(_ort_gpu, "open_session", refuse)
    for provider in (CUDA, _ort_providers.TENSORRT, TENSORRT_RTX):
        runner = OrtGpuRunner(GRAPH, Request(provider, {"use_tf32": "0"}))
        runner.time_batches(cuda_graph=True)
        with pytest.raises(Missing), runner:
            pass
        assert asked[-1].options["user_compute_stream"] == "0"
        assert asked[-1].options["use_tf32"] == "0"
    graphs = [{"enable_cuda_graph", "trt_cuda_graph_enable"} & {*each.options} for each in asked]
    assert graphs == [{"enable_cuda_graph"}, {"trt_cuda_graph_enable"}, {"enable_cuda_graph"}]


def test_a_cache_holds_for_one_graph_provider_version_and_gpu(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first = cache_key(GRAPH, CUDA, "NVIDIA L4")
    assert cache_key(GRAPH, CUDA, "NVIDIA L4") == first
    assert cache_key(GRAPH + b" ", CUDA, "NVIDIA L4") != first
    assert cache_key(GRAPH, CUDA, "NVIDIA A10") != first
    monkeypatch.setattr(ort, "__version__", "9.9")
    assert cache_key(GRAPH, CUDA, "NVIDIA L4") != first


@pytest.mark.skipif(
    CUDA.name not in ort.get_available_providers(), reason="needs the package onnxruntime-gpu"
)
def test_the_real_cuda_provider_without_a_driver_says_why() -> None:
    if _ort_providers.driver_problem() is None:
        pytest.skip("a driver is here")
    with pytest.raises(Missing, match=r"can't start here: no NVIDIA driver") as caught:
        open_session(GRAPH, Request(CUDA))
    assert caught.value.exit_code == 4
