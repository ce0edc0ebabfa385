"""The engine's runner, with stand-ins for TensorRT and CUDA: wiring only, nothing ran on a GPU."""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from exporter.errors import ExporterError, Missing, WrongUse
from exporter.machine.install import pip_line
from exporter.network.runner import DeviceRunner
from exporter.targets import tensorrt_runner as _tensorrt_runner
from exporter.targets.tensorrt_runner import EngineRunner


@pytest.fixture
def cuda(stand_ins: Any) -> Iterator[Any]:
    runtime = importlib.import_module("cuda.bindings.runtime")
    yield runtime
    assert runtime.live == {}, "memory, streams and graphs are freed"


def plan(path: Path, dtype: str = "float32") -> Path:
    told = {"inputs": {"x": [-1, 3]}, "profile": {"x": [[1, 3], [2, 3], [4, 3]]}, "dtype": dtype}
    path.write_text(json.dumps(told))
    return path


def batch(size: int, start: int = 0) -> np.ndarray:
    return np.arange(start, start + 3 * size, dtype=np.float32).reshape(size, 3)


def test_every_batch_of_the_range_runs(stand_ins: Any, cuda: Any, tmp_path: Path) -> None:
    with EngineRunner(stand_ins, plan(tmp_path / "p").read_bytes()) as runner:
        for size in (1, 4, 2):
            got = runner.infer({"x": batch(size)})["doubled"]
            np.testing.assert_array_equal(got, 2 * batch(size))
    assert cuda.launched == ["enqueue"] * 3, "each shape's first batch runs outside a graph"


def test_a_graph_is_replayed_from_the_second_batch_of_a_shape(
    stand_ins: Any, cuda: Any, tmp_path: Path
) -> None:
    with EngineRunner(stand_ins, plan(tmp_path / "p").read_bytes()) as runner:
        for number in range(3):
            got = runner.infer({"x": batch(2, number)})["doubled"]
            np.testing.assert_array_equal(got, 2 * batch(2, number))
        assert runner.uses_cuda_graph
        runner.infer({"x": batch(4)})
        assert not runner.uses_cuda_graph, "recorded for another shape"
    assert cuda.launched == ["enqueue", "graph", "graph", "enqueue"]


def test_without_graphs_on_request_and_where_recording_fails(
    stand_ins: Any, cuda: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with EngineRunner(stand_ins, plan(tmp_path / "p").read_bytes(), cuda_graph=False) as runner:
        for _ in range(2):
            runner.infer({"x": batch(2)})
        assert not runner.uses_cuda_graph

    def refuse(stream: int) -> Any:
        half_made, cuda.capturing = cuda.capturing, None
        return cuda.cudaError_t.cudaErrorInvalidValue, cuda.keep(half_made)

    cleared: list[bool] = []
    monkeypatch.setattr(cuda, "cudaGetLastError", lambda: cleared.append(True))

    monkeypatch.setattr(cuda, "cudaStreamEndCapture", refuse)
    with EngineRunner(stand_ins, plan(tmp_path / "p").read_bytes()) as runner:
        for number in range(3):
            got = runner.infer({"x": batch(2, number)})["doubled"]
            np.testing.assert_array_equal(got, 2 * batch(2, number))
    assert cuda.launched == ["enqueue"] * 5
    assert cleared == [True], "the next call is not blamed for it"


def test_on_a_dla_nothing_is_recorded(stand_ins: Any, cuda: Any, tmp_path: Path) -> None:
    path = plan(tmp_path / "p")
    path.write_text(json.dumps({**json.loads(path.read_text()), "DLA_core": 0}))
    runner = EngineRunner(stand_ins, path.read_bytes(), dla_core=0)
    runner.time_batches(cuda_graph=True)
    with runner:
        for _ in range(3):
            runner.infer({"x": batch(2)})
        assert not runner.uses_cuda_graph
    assert cuda.launched == ["enqueue"] * 3


@pytest.mark.parametrize("cuda_graph", [True, False])
def test_tensorrt_rtx_records_graphs_of_its_own(
    stand_ins: Any, cuda: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cuda_graph: bool
) -> None:
    """The names are TensorRT-RTX 1.7.1's: test_tensorrt_api holds them to the module."""
    told: list[Any] = []
    create = stand_ins.Engine.create_execution_context
    whole, eager = SimpleNamespace(WHOLE_GRAPH_CAPTURE="graph"), SimpleNamespace(EAGER="eager")
    monkeypatch.setattr(stand_ins, "CudaGraphStrategy", whole, raising=False)
    monkeypatch.setattr(
        stand_ins, "DynamicShapesKernelSpecializationStrategy", eager, raising=False
    )
    monkeypatch.setattr(
        stand_ins.Engine, "create_runtime_config", lambda self: SimpleNamespace(), raising=False
    )
    monkeypatch.setattr(
        stand_ins.Engine,
        "create_execution_context",
        lambda self, settings: (told.append(vars(settings)), create(self))[1],
    )
    with EngineRunner(
        stand_ins, plan(tmp_path / "p").read_bytes(), cuda_graph=cuda_graph
    ) as runner:
        for _ in range(2):
            runner.infer({"x": batch(2)})
        assert runner.uses_cuda_graph is cuda_graph
    graphs = {"cuda_graph_strategy": "graph"} if cuda_graph else {}
    assert told == [{"dynamic_shapes_kernel_specialization_strategy": "eager", **graphs}]
    assert cuda.launched == ["enqueue"] * 2


@pytest.mark.parametrize("cuda_graph", [True, False])
def test_events_stand_around_copies_and_kernels(
    stand_ins: Any, cuda: Any, tmp_path: Path, cuda_graph: bool
) -> None:
    runner = EngineRunner(stand_ins, plan(tmp_path / "p").read_bytes())
    assert isinstance(runner, DeviceRunner)
    runner.time_batches(cuda_graph=cuda_graph)
    with runner:
        for _ in range(3):
            runner.infer({"x": batch(2)})
        assert runner.device_settings["cuda_graph"] is cuda_graph
        assert runner.device_settings["transfers"]
    # The stand-in's clock goes 1 at every record and 100 at every launch.
    assert [(t.copy_in, t.compute, t.copy_out) for t in runner.times] == [(1, 101, 1)] * 3
    assert all(t.enqueue > 0 for t in runner.times)


def test_feeds_become_what_the_engine_takes(stand_ins: Any, cuda: Any, tmp_path: Path) -> None:
    with EngineRunner(stand_ins, plan(tmp_path / "p", "float16").read_bytes()) as runner:
        got = runner.infer({"x": np.asfortranarray(batch(2))})["doubled"]
    assert got.dtype == np.float16
    np.testing.assert_array_equal(got, 2 * batch(2).astype(np.float16))


@pytest.mark.parametrize(
    ("feeds", "message"),
    [
        ({"x": batch(5)}, r"'x' has shape \(5, 3\), but the engine takes \(1, 3\) to \(4, 3\)"),
        ({"x": batch(2)[0]}, r"'x' has shape \(3,\)"),
        ({"z": batch(1)}, "input 'x' is missing; given: z"),
    ],
)
def test_what_does_not_fit_is_refused(
    stand_ins: Any, cuda: Any, tmp_path: Path, feeds: Any, message: str
) -> None:
    with (
        EngineRunner(stand_ins, plan(tmp_path / "p").read_bytes()) as runner,
        pytest.raises(WrongUse, match=message),
    ):
        runner.infer(feeds)


def test_errors_carry_the_reason_and_free_everything(
    stand_ins: Any, cuda: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ExporterError, match="can't load the engine: magic tag"):
        EngineRunner(stand_ins, b"not a plan").__enter__()
    monkeypatch.setattr(
        cuda, "cudaMalloc", lambda size: (cuda.cudaError_t.cudaErrorMemoryAllocation, None)
    )
    with pytest.raises(ExporterError, match="cudaMalloc failed: cudaErrorMemoryAllocation"):
        EngineRunner(stand_ins, plan(tmp_path / "p").read_bytes()).__enter__()


def test_a_runtime_that_does_not_start_is_missing(
    stand_ins: Any, cuda: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(log: Any) -> Any:
        raise TypeError("pybind11::init(): factory function returned nullptr")

    monkeypatch.setattr(stand_ins, "Runtime", fail)
    with pytest.raises(Missing, match="does not start here: pybind11"):
        EngineRunner(stand_ins, plan(tmp_path / "p").read_bytes()).__enter__()


def test_no_room_to_run_is_told_from_not_loading(
    stand_ins: Any, cuda: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stand_ins.Engine, "create_execution_context", lambda self: None)
    with pytest.raises(
        ExporterError, match="loads, but there is not enough memory to run it"
    ) as caught:
        EngineRunner(stand_ins, plan(tmp_path / "p").read_bytes()).__enter__()
    assert "smaller --batch" in str(caught.value.hint)


def test_cuda_python_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_tensorrt_runner, "_CUDA", "cuda_that_is_not_here")
    with pytest.raises(Missing, match="cuda-python") as caught:
        EngineRunner(None, b"").__enter__()
    assert caught.value.hint == pip_line("target")


@pytest.mark.parametrize(
    ("drivers", "message", "hint"),
    [
        (12040, None, None),
        (
            11080,
            "is for CUDA 12, but the driver supports only CUDA 11",
            "pip install 'cuda-python<12'",
        ),
        (0, "no NVIDIA driver answers", "check with nvidia-smi"),
    ],
)
def test_cuda_python_must_be_one_that_the_driver_knows(
    cuda: Any, monkeypatch: pytest.MonkeyPatch, drivers: int, message: str | None, hint: str | None
) -> None:
    """A minor version newer than the driver's is compatible, a major one is not."""
    monkeypatch.setattr(
        cuda, "cudaDriverGetVersion", lambda: (cuda.cudaError_t.cudaSuccess, drivers)
    )
    if message is None:
        assert _tensorrt_runner.load_cuda() is cuda
        return
    with pytest.raises(Missing, match=message) as caught:
        _tensorrt_runner.load_cuda()
    assert caught.value.hint == hint
