"""Run a graph on one of onnxruntime's GPU providers, and time it with I/O binding.

Timing keeps inputs and outputs on the GPU (I/O binding), to separate copies from kernels. It marks
the provider's own stream with CUDA events, as the runner of TensorRT engines does, so the figures
of both are comparable. Each shape gets its own CUDA graph, with its own id. See
https://onnxruntime.ai/docs/execution-providers/CUDA-ExecutionProvider.html, "Using CUDA Graphs".
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
import onnxruntime as ort

from exporter.errors import ExporterError
from exporter.network.runner import DeviceTimes, Feeds
from exporter.targets import _ort_placement, _ort_providers
from exporter.targets._cuda_clock import CudaClock
from exporter.targets._ort_placement import Placement
from exporter.targets._ort_providers import Provider
from exporter.targets.ort import NOT_THESE

# A call doesn't wait for the stream, so that host time and kernel time can be told apart.
_RUN_OPTION = "disable_synchronize_execution_providers"


@dataclass(frozen=True)
class Request:
    """What a session should provide.

    Attributes:
        provider: where every node should run.
        options: the provider's options, in onnxruntime's form.
        allow_fallback: whether nodes may run on another provider.
        what: name of the artifact, for messages.
    """

    provider: Provider
    options: Mapping[str, str] = field(default_factory=dict)
    allow_fallback: bool = False
    what: str = "the graph"


def open_session(model: bytes, request: Request) -> tuple[Any, Placement]:
    """Create a session, and read where its nodes run.

    Raises:
        Missing: the provider is missing or doesn't start.
        ExporterError: onnxruntime refuses the graph, or nodes would run on another provider.
    """
    provider = request.provider
    _ort_providers.require(provider)
    settings = ort.SessionOptions()
    settings.log_severity_level = 4  # we read problems back and raise them
    settings.add_session_config_entry(_ort_placement.RECORD, "1")
    providers = _ort_providers.add(provider, settings, dict(request.options))
    try:
        session = ort.InferenceSession(
            model,
            settings,
            providers=providers,
            disabled_optimizers=NOT_THESE,
            enable_fallback=0,  # otherwise others silently replace a provider that failed
        )
    except Exception as error:  # onnxruntime's exceptions have no common public base
        line = _ort_providers.first_line(error)
        raise ExporterError(f"{provider.title} refuses the graph: {line}") from error
    if provider.name not in session.get_providers():
        raise _ort_providers.did_not_start(provider)
    placement = _ort_placement.read(session, provider.name)
    if not request.allow_fallback:
        _ort_placement.refuse_fallback(placement, request.what)
    return session, placement


@dataclass(frozen=True)
class _Bound:
    """The binding of one shape: its arrays on the GPU, and the run options."""

    binding: Any
    inputs: Mapping[str, Any]
    outputs: Mapping[str, Any]
    options: Any


class OrtGpuRunner:
    """One session on a GPU provider.

    Args:
        model: the graph. The caller must have checked its hash.
        request: the provider, its options, and whether nodes may fall back.
        device: onnxruntime's name of the device that holds bound arrays.

    Attributes:
        placement: where nodes run; set once the runner is open.
        times: time of each batch since :meth:`time_batches`.
    """

    placement: Placement

    def __init__(self, model: bytes, request: Request, *, device: str = "cuda") -> None:
        self._model, self._request, self._device = model, request, device
        self._timed = self._cuda_graph = False
        self.times: list[DeviceTimes] = []

    def time_batches(self, *, cuda_graph: bool) -> None:
        """Time every batch with CUDA events from now on. Call this before the session opens."""
        self._timed, self._cuda_graph = True, cuda_graph

    def __enter__(self) -> OrtGpuRunner:
        """Create the session.

        Raises:
            The errors of :func:`open_session`. Timing also needs cuda-python.
        """
        self._clock = CudaClock(4) if self._timed else None
        self._bound: dict[tuple[tuple[int, ...], ...], _Bound] = {}
        try:
            self._session, self.placement = open_session(self._model, self._timed_request())
        except BaseException:
            self.__exit__()
            raise
        self._outputs = [output.name for output in self._session.get_outputs()]
        return self

    def __exit__(self, *_: object) -> None:
        """Free the session, then its stream."""
        self._bound = {}
        self.__dict__.pop("_session", None)
        if self._clock is not None:
            self._clock.close()
            self._clock = None

    def infer(self, feeds: Feeds) -> Feeds:
        """Run one batch.

        Raises:
            ExporterError: the provider fails.
        """
        try:
            if self._clock is None:
                results = self._session.run(self._outputs, feeds)
                return dict(zip(self._outputs, results, strict=True))
            return self._infer_timed(feeds, self._clock)
        except Exception as error:  # onnxruntime's exceptions have no common public base
            if isinstance(error, ExporterError):
                raise
            line = _ort_providers.first_line(error)
            raise ExporterError(f"{self._request.provider.title} failed: {line}") from error

    @property
    def device_settings(self) -> dict[str, Any]:
        """All settings that the times depend on."""
        own = self._session.get_provider_options().get(self._request.provider.name, {})
        return {
            "library": f"onnxruntime {ort.__version__}, {self._request.provider.name}",
            "cuda_graph": self._cuda_graph,
            "transfers": True,
            "host_memory": "pageable",
            "spin_wait": False,
            "streams": 1,
            "io_binding": self._timed,
            "provider_options": {name: own.get(name, value) for name, value in self._own.items()},
        }

    def _timed_request(self) -> Request:
        """Return the request with the options for the clock's stream and the CUDA graph."""
        request = self._request
        self._own = dict(request.options)
        if self._clock is not None:
            self._own |= {
                "user_compute_stream": str(self._clock.stream),
                request.provider.cuda_graph: str(int(self._cuda_graph)),
            }
            if request.provider.plugin is not None:
                self._own["has_user_compute_stream"] = "1"
        return Request(request.provider, self._own, request.allow_fallback, request.what)

    def _infer_timed(self, feeds: Feeds, clock: CudaClock) -> Feeds:
        shapes = tuple(array.shape for array in feeds.values())
        if shapes not in self._bound:
            self._bound[shapes] = self._bind(feeds, len(self._bound))
        bound = self._bound[shapes]
        results = {
            name: np.empty(value.shape(), _numpy(value)) for name, value in bound.outputs.items()
        }
        clock.mark(0)
        for name, array in feeds.items():
            clock.copy_in(bound.inputs[name].data_ptr(), np.ascontiguousarray(array))
        clock.mark(1)
        started = time.perf_counter()
        self._session.run_with_iobinding(bound.binding, bound.options)
        enqueue_ms = 1000 * (time.perf_counter() - started)
        clock.mark(2)
        for name, array in results.items():
            clock.copy_out(array, bound.outputs[name].data_ptr())
        clock.mark(3)
        copy_in, compute, copy_out = (clock.between(*pair) for pair in pairwise(range(4)))
        self.times.append(DeviceTimes(copy_in, compute, copy_out, enqueue_ms))
        return results

    def _bind(self, feeds: Feeds, number: int) -> _Bound:
        """Allocate a shape's arrays on the GPU. A plain run gives the outputs' shapes.

        Args:
            feeds: one batch of the shape.
            number: number of shapes bound before. It sets the id of the shape's CUDA graph.
        """
        plain = ort.RunOptions()
        plain.add_run_config_entry("gpu_graph_id", "-1")
        found = self._session.run(self._outputs, feeds, plain)

        def place(array: Any) -> Any:
            return ort.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(array), self._device, 0)

        inputs = {name: place(array) for name, array in feeds.items()}
        outputs = {name: place(array) for name, array in zip(self._outputs, found, strict=True)}
        binding = self._session.io_binding()
        for name, value in inputs.items():
            binding.bind_ortvalue_input(name, value)
        for name, value in outputs.items():
            binding.bind_ortvalue_output(name, value)
        options = ort.RunOptions()
        options.add_run_config_entry(_RUN_OPTION, "1")
        options.add_run_config_entry("gpu_graph_id", str(number + 1))
        return _Bound(binding, inputs, outputs, options)


def _numpy(value: Any) -> np.dtype[Any]:
    """Return numpy's type for an onnxruntime array, such as one of ``tensor(float16)``."""
    names = {"float": "float32", "double": "float64"}
    name = value.data_type().removeprefix("tensor(").removesuffix(")")
    dtype: np.dtype[Any] = np.dtype(names.get(name, name))
    return dtype


def cache_key(model: bytes, provider: Provider, gpu: str) -> str:
    """Return a cache key for compiled code, from the graph, the provider's versions and the GPU."""
    known = [hashlib.sha256(model).hexdigest(), gpu]
    known += [f"{name} {version}" for name, version in _ort_providers.versions(provider).items()]
    return hashlib.sha256("\0".join(known).encode()).hexdigest()[:32]
