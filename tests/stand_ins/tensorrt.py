"""Stands in for TensorRT where it can't be installed: for wiring only.

Its "engine" is JSON of what the builder was told, so a test can see what reached TensorRT; run,
it doubles its input. It proves nothing about TensorRT; `tensorrt_rtx`, which is real, does that.
"""

import ctypes
import json
import math
from enum import IntEnum
from typing import Any

import numpy as np
import onnx

__version__ = "10.3.0"
float32, float16 = "float32", "float16"


class NetworkDefinitionCreationFlag(IntEnum):
    STRONGLY_TYPED = 1


class BuilderFlag(IntEnum):
    GPU_FALLBACK = 3
    TF32 = 7
    VERSION_COMPATIBLE = 14


class MemoryPoolType(IntEnum):
    WORKSPACE = 0


class ProfilingVerbosity(IntEnum):
    DETAILED = 2


class HardwareCompatibilityLevel(IntEnum):
    AMPERE_PLUS = 1


class DeviceType(IntEnum):
    GPU = 0
    DLA = 1


class LayerInformationFormat(IntEnum):
    JSON = 1


class TensorIOMode(IntEnum):
    INPUT = 1
    OUTPUT = 2


class ILogger:
    INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = range(5)


class IProgressMonitor: ...


class Named:
    def __init__(self, name: str, shape: tuple[int, ...] = ()) -> None:
        self.name, self.shape = name, shape


class Network:
    def __init__(self, flags: int) -> None:
        self.flags = flags
        self.inputs: list[Named] = []
        self.layers: list[Named] = []

    num_inputs = property(lambda self: len(self.inputs))
    num_layers = property(lambda self: len(self.layers))

    def get_input(self, index: int) -> Named:
        return self.inputs[index]

    def get_layer(self, index: int) -> Named:
        return self.layers[index]


class OnnxParser:
    num_errors = 0

    def __init__(self, network: Network, log: Any) -> None:
        self.network = network

    def parse(self, data: bytes) -> bool:
        graph = onnx.load_model_from_string(data).graph
        for value in graph.input:
            dims = value.type.tensor_type.shape.dim
            shape = tuple(d.dim_value if d.HasField("dim_value") else -1 for d in dims)
            self.network.inputs.append(Named(value.name, shape))
        self.network.layers = [Named(node.name) for node in graph.node]
        return True


class Profile:
    def __init__(self) -> None:
        self.shapes: dict[str, Any] = {}

    def set_shape(self, name: str, *shapes: tuple[int, ...]) -> None:
        self.shapes[name] = shapes


class TimingCache:
    def __init__(self, data: bytes) -> None:
        self.data = data

    def serialize(self) -> bytes:
        return self.data + b"timed;"


class Config:
    def __init__(self) -> None:
        self.told: dict[str, Any] = {"flags": ["TF32"]}

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        if isinstance(value, int):
            self.told[name] = value

    progress_monitor: Any = None

    def set_flag(self, flag: BuilderFlag) -> None:
        self.told["flags"].append(flag.name)

    def clear_flag(self, flag: BuilderFlag) -> None:
        self.told["flags"].remove(flag.name)

    def set_memory_pool_limit(self, pool: MemoryPoolType, size: int) -> None:
        self.told[pool.name] = size

    def add_optimization_profile(self, profile: Profile) -> int:
        self.told["profile"] = profile.shapes
        return 0

    def can_run_on_DLA(self, layer: Named) -> bool:
        return "relu" not in layer.name

    def create_timing_cache(self, data: bytes) -> "TimingCache | None":
        return None if data == b"damaged" else TimingCache(data)

    def set_timing_cache(self, cache: TimingCache, ignore_mismatch: bool) -> bool:
        self.told["timings"] = cache.data.decode()
        return True


class Builder:
    num_DLA_cores = 2

    def __init__(self, log: Any) -> None:
        self.log = log

    def create_builder_config(self) -> Config:
        return Config()

    def create_network(self, flags: int) -> Network:
        return Network(flags)

    def create_optimization_profile(self) -> Profile:
        return Profile()

    def build_serialized_network(self, network: Network, config: Config) -> "bytes | None":
        monitor = getattr(config, "progress_monitor", None)  # releases before 10 have none
        if monitor is not None:
            monitor.phase_start("Building", None, 2)
            for step in range(2):
                if not monitor.step_complete("Building", step):
                    return None
            monitor.phase_finish("Building")
        inputs = {tensor.name: tensor.shape for tensor in network.inputs}
        return json.dumps({**config.told, "network": network.flags, "inputs": inputs}).encode()


def nptype(dtype: str) -> Any:
    return {"float32": np.float32, "float16": np.float16}[dtype]


class Inspector:
    """Tells types only where a context has every shape set, as TensorRT does."""

    execution_context: "Context | None" = None

    def get_engine_information(self, form: LayerInformationFormat) -> str:
        context = self.execution_context
        known = context is not None and context.shape and -1 not in context.shape
        form = "Row major linear FP32" if known else "N/A due to dynamic shapes"
        tensor = {"Name": "y", "Dimensions": [], "Format/Datatype": form}
        layer = {"Name": "relu", "LayerType": "PointWise", "Outputs": [tensor]}
        return json.dumps({"Layers": [layer]})


class Engine:
    """One input and one output of the same shape."""

    num_io_tensors = 2

    def __init__(self, told: dict[str, Any]) -> None:
        self.told = told
        ((self.input, self.shape),) = told["inputs"].items()

    def get_tensor_name(self, index: int) -> str:
        return (self.input, "doubled")[index]

    def get_tensor_mode(self, name: str) -> TensorIOMode:
        return TensorIOMode.INPUT if name == self.input else TensorIOMode.OUTPUT

    def get_tensor_dtype(self, name: str) -> str:
        return str(self.told.get("dtype", float32))

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return tuple(self.shape)

    def get_tensor_profile_shape(self, name: str, index: int) -> Any:
        return self.told["profile"][name]

    def create_execution_context(self) -> "Context":
        return Context(self)

    def create_engine_inspector(self) -> Inspector:
        return Inspector()


class Context:
    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.addresses: dict[str, int] = {}
        self.shape: tuple[int, ...] = ()

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self.shape = tuple(shape)
        return True

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self.shape

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.addresses[name] = address
        return True

    def execute_async_v3(self, stream: int) -> bool:
        from cuda.bindings import runtime

        dtype = np.dtype(nptype(self.engine.get_tensor_dtype("")))

        def run() -> None:
            count = math.prod(self.shape)
            views = [
                np.frombuffer(
                    (ctypes.c_char * (count * dtype.itemsize)).from_address(self.addresses[name]),
                    dtype,
                )
                for name in (self.engine.input, "doubled")
            ]
            views[1][:] = views[0] * 2

        if runtime.capturing is not None:
            runtime.capturing.append(run)
        else:
            run()
            runtime.launched.append("enqueue")
        return True


class Runtime:
    engine_host_code_allowed = False  # as in NvInferRuntime.h
    DLA_core = -1

    def __init__(self, log: Any) -> None:
        self.log = log

    def deserialize_cuda_engine(self, plan: bytes) -> "Engine | None":
        if not plan.startswith(b"{"):
            self.log.log(ILogger.ERROR, "magic tag does not match")
            return None
        told = json.loads(plan)
        if "VERSION_COMPATIBLE" in told.get("flags", ()) and not self.engine_host_code_allowed:
            self.log.log(ILogger.ERROR, "lean runtime since getEngineHostCodeAllowed() is false")
            return None
        if told.get("DLA_core", -1) != self.DLA_core:
            self.log.log(ILogger.ERROR, f"built for DLA core {told['DLA_core']}")
            return None
        return Engine(told)
