"""Run an engine: device memory, a stream, a CUDA graph, any batch in the engine's range.

It calls CUDA through cuda-python (``cuda.bindings.runtime``), and TensorRT through its own module.
Tests use stand-ins for both libraries. They show that the calls are wired correctly, but nothing
about what a GPU does. docs/results.md lists where this has run.
"""

from __future__ import annotations

import importlib
import math
import time
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from exporter.errors import ExporterError, Missing, WrongUse
from exporter.machine.install import pip_line
from exporter.network.runner import DeviceTimes
from exporter.targets._tensorrt_load import last_error, load_engine, start_runtime
from exporter.targets._tensorrt_watch import make_log

if TYPE_CHECKING:
    import numpy.typing as npt

    from exporter.network.runner import Feeds

_CUDA = "cuda.bindings.runtime"


@dataclass(frozen=True)
class _Port:
    """An input or output of the engine, and its address on the GPU."""

    name: str
    dtype: npt.DTypeLike
    address: int


class EngineRunner:
    """One engine with one stream. It converts feeds to the types of the engine's inputs.

    Args:
        trt: the module ``tensorrt`` or ``tensorrt_rtx``.
        plan: the engine. Loading it runs its code, so the caller must have checked its hash.
        name: its name for errors.
        cuda_graph: replay the kernels as one graph from the second batch of a shape on.
        version_compatible: whether the engine is version-compatible.
        dla_core: the DLA core that it was built for; None if it only uses the GPU.
    """

    def __init__(
        self,
        trt: Any,
        plan: bytes,
        *,
        name: str = "the engine",
        cuda_graph: bool = True,
        version_compatible: bool = False,
        dla_core: int | None = None,
    ) -> None:
        self._trt = trt
        self._plan, self._name = plan, name
        self._version_compatible, self._dla_core = version_compatible, dla_core
        self._timed = False
        self._events: list[Any] = []
        self._graph: Any = None
        self._set_graph(cuda_graph)
        self.times: list[DeviceTimes] = []

    def time_batches(self, *, cuda_graph: bool) -> None:
        """Time every batch with CUDA events from now on. Call this before the engine opens."""
        self._timed = True
        self._set_graph(cuda_graph)

    def _set_graph(self, wanted: bool) -> None:
        """Choose whether to replay kernels as a graph. TensorRT-RTX does this itself; a DLA can't.

        "CUDA graphs and DLA offloading are not simultaneously supported":
        samples/common/sampleOptions.cpp of NVIDIA/TensorRT.
        """
        self._asked = wanted and self._dla_core is None
        self._by_runtime = hasattr(self._trt, "CudaGraphStrategy")
        self._wants_graph = self._asked and not self._by_runtime

    def __enter__(self) -> EngineRunner:
        """Load the engine, and allocate memory for its largest batch.

        Raises:
            Missing: cuda-python or a GPU is missing.
            ExporterError: the engine doesn't load. Contains TensorRT's reason.
        """
        self._cuda = load_cuda()
        self._allocated: list[int] = []
        self._stream: Any = None
        self._graph = None
        self._seen: tuple[tuple[int, ...], ...] = ()
        try:
            self._load()
        except BaseException:
            self.__exit__()
            raise
        return self

    def _load(self) -> None:
        trt = self._trt
        log = make_log(trt)
        self._runtime = start_runtime(
            trt, log, version_compatible=self._version_compatible, dla_core=self._dla_core
        )
        engine = load_engine(trt, self._runtime, log, self._plan, self._name)
        context = self._make_context(engine)
        if context is None:
            raise ExporterError(
                f"{self._name} loads, but there is not enough memory to run it: {last_error(log)}",
                hint="it needs GPU memory for its largest batch; build it for a smaller --batch",
            )
        self._engine, self._context, self._log = engine, context, log
        names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
        inputs = [n for n in names if engine.get_tensor_mode(n) == trt.TensorIOMode.INPUT]
        self._stream = self._call("cudaStreamCreate")
        if self._timed:
            for _ in range(4):
                self._events.append(self._call("cudaEventCreate"))
        self._ranges = {name: self._range(name) for name in inputs}
        for name in inputs:
            context.set_input_shape(name, self._ranges[name][1])
        self._inputs = [self._port(name) for name in inputs]
        self._outputs = [self._port(name) for name in names if name not in inputs]

    def _make_context(self, engine: Any) -> Any:
        """Create the execution context.

        TensorRT-RTX compiles kernels for a shape when it first sees the shape. By default, it does
        this in the background and runs slower kernels meanwhile. A CUDA graph of ours would keep
        those: https://docs.nvidia.com/deeplearning/tensorrt-rtx/latest, "Working with RTX CUDA
        Graphs".
        """
        if not self._by_runtime:
            return engine.create_execution_context()
        trt, settings = self._trt, engine.create_runtime_config()
        eager = trt.DynamicShapesKernelSpecializationStrategy.EAGER
        settings.dynamic_shapes_kernel_specialization_strategy = eager
        if self._asked:
            settings.cuda_graph_strategy = trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
        return engine.create_execution_context(settings)

    def _range(self, name: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Return the smallest and the largest shape of an input."""
        shape = tuple(self._engine.get_tensor_shape(name))
        if -1 not in shape:
            return shape, shape
        smallest, _, largest = self._engine.get_tensor_profile_shape(name, 0)
        return tuple(smallest), tuple(largest)

    def _port(self, name: str) -> _Port:
        """Allocate memory for the shape that the tensor has with the largest inputs."""
        engine, context = self._engine, self._context
        dtype = np.dtype(self._trt.nptype(engine.get_tensor_dtype(name)))
        size = math.prod(context.get_tensor_shape(name)) * dtype.itemsize
        address = int(self._call("cudaMalloc", size))
        self._allocated.append(address)
        context.set_tensor_address(name, address)
        return _Port(name, dtype, address)

    def __exit__(self, *_: object) -> None:
        """Free the graph, the stream and the memory."""
        self._drop_graph()
        if self._stream is not None:
            self._call("cudaStreamSynchronize", self._stream)
            for event in self._events:
                self._call("cudaEventDestroy", event)
            self._call("cudaStreamDestroy", self._stream)
        self._events = []
        for address in self._allocated:
            self._call("cudaFree", address)
        self._allocated, self._stream = [], None
        for name in ("_context", "_engine", "_runtime"):  # in the order of dependence
            self.__dict__.pop(name, None)

    def infer(self, feeds: Feeds) -> Feeds:
        """Run one batch.

        Raises:
            WrongUse: an input is missing, or its shape is outside the engine's range.
            ExporterError: TensorRT or CUDA fails.
        """
        arrays = [self._fitted(port, feeds) for port in self._inputs]
        kind = self._cuda.cudaMemcpyKind
        self._mark(0)
        for port, array in zip(self._inputs, arrays, strict=True):
            self._copy(port.address, array.ctypes.data, array.nbytes, kind.cudaMemcpyHostToDevice)
        self._mark(1)
        started = time.perf_counter()
        self._execute(tuple(array.shape for array in arrays))
        enqueued_s = time.perf_counter() - started
        self._mark(2)
        results = {}
        for port in self._outputs:
            got = np.empty(tuple(self._context.get_tensor_shape(port.name)), port.dtype)
            self._copy(got.ctypes.data, port.address, got.nbytes, kind.cudaMemcpyDeviceToHost)
            results[port.name] = got
        self._mark(3)
        self._call("cudaStreamSynchronize", self._stream)
        if self._timed:
            copy_in, compute, copy_out = (
                float(self._call("cudaEventElapsedTime", *pair)) for pair in pairwise(self._events)
            )
            self.times.append(DeviceTimes(copy_in, compute, copy_out, 1000 * enqueued_s))
        return results

    def _mark(self, event: int) -> None:
        """Make the stream record the time when it reaches this point."""
        if self._timed:
            self._call("cudaEventRecord", self._events[event], self._stream)

    @property
    def device_settings(self) -> dict[str, Any]:
        """All settings that the times depend on. trtexec's defaults differ between releases."""
        return {
            "library": f"{self._trt.__name__} {self._trt.__version__}",
            "cuda_graph": self.uses_cuda_graph,
            "transfers": True,
            "host_memory": "pageable",
            "spin_wait": False,
            "streams": 1,
        }

    def _copy(self, to: int, source: int, size: int, kind: Any) -> None:
        self._call("cudaMemcpyAsync", to, source, size, kind, self._stream)

    def _fitted(self, port: _Port, feeds: Feeds) -> npt.NDArray[Any]:
        if port.name not in feeds:
            raise WrongUse(f"input {port.name!r} is missing; given: {', '.join(feeds)}")
        array = np.ascontiguousarray(feeds[port.name], port.dtype)
        smallest, largest = self._ranges[port.name]
        fits = len(array.shape) == len(largest) and all(
            low <= size <= high
            for low, size, high in zip(smallest, array.shape, largest, strict=True)
        )
        if not fits:
            raise WrongUse(
                f"input {port.name!r} has shape {array.shape}, but the engine takes {smallest} to "
                f"{largest}",
                hint="export again with another --batch MIN:OPT:MAX",
            )
        return array

    def _execute(self, shapes: tuple[tuple[int, ...], ...]) -> None:
        """Enqueue the kernels. From a shape's second batch on, replay them as one graph.

        The first batch of a shape must run outside a capture, as TensorRT allocates memory then:
        https://docs.nvidia.com/deeplearning/tensorrt/latest/inference-library/advanced.html.
        """
        if shapes != self._seen:
            self._drop_graph()
            for port, shape in zip(self._inputs, shapes, strict=True):
                if not self._context.set_input_shape(port.name, shape):
                    raise ExporterError(f"TensorRT refuses {shape} for {port.name!r}")
            self._enqueue()
            self._seen = shapes
            return
        if self._wants_graph and self._graph is None:
            self._capture()
        if self._graph is not None:
            self._call("cudaGraphLaunch", self._graph, self._stream)
        else:
            self._enqueue()

    def _enqueue(self) -> None:
        if not self._context.execute_async_v3(int(self._stream)):
            raise ExporterError(f"TensorRT could not run the engine: {last_error(self._log)}")

    def _capture(self) -> None:
        """Record the kernels as a graph. Engines that can't be recorded run without one."""
        mode = self._cuda.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        self._call("cudaStreamBeginCapture", self._stream, mode)
        recorded = self._context.execute_async_v3(int(self._stream))
        status, graph = self._cuda.cudaStreamEndCapture(self._stream)
        if not recorded or status != self._cuda.cudaError_t.cudaSuccess:
            self._wants_graph = False
            if graph is not None:
                self._cuda.cudaGraphDestroy(graph)
            self._cuda.cudaGetLastError()  # clear it, or the next call would return this error
            return
        self._graph = self._call("cudaGraphInstantiate", graph, 0)
        self._call("cudaGraphDestroy", graph)

    @property
    def uses_cuda_graph(self) -> bool:
        """Whether the last batch's shape is replayed as a graph, either ours or the runtime's."""
        return self._graph is not None or (self._asked and self._by_runtime)

    def _drop_graph(self) -> None:
        if self._graph is not None:
            self._call("cudaGraphExecDestroy", self._graph)
            self._graph = None

    def _call(self, function: str, *arguments: Any) -> Any:
        """Call CUDA and return its only result.

        Raises:
            ExporterError: CUDA returned an error. The message names it.
        """
        status, *results = getattr(self._cuda, function)(*arguments)
        if status != self._cuda.cudaError_t.cudaSuccess:
            raise ExporterError(f"{function} failed: {getattr(status, 'name', status)}")
        return results[0] if results else None


def load_cuda() -> Any:
    """Import cuda-python. It contains its own CUDA, which the driver must support.

    Raises:
        Missing: it isn't installed, is too old or too new, or its libraries don't load.
    """
    try:
        cuda = importlib.import_module(_CUDA)
        (_, its), (_, drivers) = cuda.cudaRuntimeGetVersion(), cuda.cudaDriverGetVersion()
    except (ImportError, OSError, RuntimeError, AttributeError) as error:
        raise Missing(
            f"running an engine needs cuda-python: {error}", hint=pip_line("target")
        ) from error
    if not drivers:
        raise Missing("no NVIDIA driver answers here", hint="check with nvidia-smi")
    if drivers // 1000 < its // 1000:
        raise Missing(
            f"the installed cuda-python is for CUDA {its // 1000}, but the driver supports only "
            f"CUDA {drivers // 1000}",
            hint=f"pip install 'cuda-python<{drivers // 1000 + 1}'",
        )
    return cuda
