"""TensorRT: an engine if TensorRT and a GPU are here, otherwise a checked graph to compile there.

An engine fits one TensorRT release and GPU, so you usually work in two steps: export on a machine
with Keras, copy the folder, and run ``exporter compile`` on the target (a Jetson, a server).
The builder is the same as for ``trt-rtx``, where tests run it. Its API names are checked against
TensorRT 10.13 and 11; the rest follows NVIDIA's documentation. docs/results.md lists where
engines have run.
"""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Any

from exporter.artifact.folder import MODEL
from exporter.engines import record as engine_record
from exporter.engines.here import this_machine
from exporter.engines.record import ENGINE, LAYERS
from exporter.errors import Missing
from exporter.machine.capabilities import FIRST_CAPABILITY, has_precision, needed_for
from exporter.machine.gpus import find_gpus
from exporter.targets import Compiled, _tensorrt, _timing_cache, _trtexec
from exporter.targets._tensorrt_load import load_engine, start_runtime
from exporter.targets._tensorrt_watch import make_log

if TYPE_CHECKING:
    from exporter.artifact.folder import Artifact
    from exporter.network.runner import Runner
    from exporter.targets import Build

MODULE = "tensorrt"
_PARSER = "tensorrt_rtx"  # NVIDIA's parser, which works without a GPU


def compile(folder: Path, build: Build) -> Compiled:
    """Build ``engine.plan`` here, or check the graph and say how to compile it elsewhere.

    Raises:
        Missing: ``build.here`` is set, but TensorRT or a GPU is missing; or the GPU here lacks
            the precision.
    """
    missing = lacking()
    if missing is None:
        check_gpu(build.precision)
        return _build_here(folder, build)
    if build.here:
        raise missing
    return _hand_over(folder, build, missing.message)


def open(artifact: Artifact, threads: int | None = None) -> Runner:
    """Open ``engine.plan``, if its hash matches the passport. ``threads`` is for CPU engines.

    Raises:
        Missing: the engine isn't compiled yet, or TensorRT or a GPU is missing.
    """
    record = engine_record.read(artifact)
    missing = lacking()
    if missing is not None:
        raise missing
    from exporter.targets.tensorrt_runner import EngineRunner

    return EngineRunner(
        load_module(),
        artifact.read_bytes(ENGINE),
        name=str(artifact.path / ENGINE),
        version_compatible=record.version_compatible,
        dla_core=record.dla_core,
    )


def check_gpu(precision: str) -> None:
    """Refuse a precision if an engine would be built here, but the GPU lacks it.

    Raises:
        Missing: the GPU lacks the precision.
    """
    if precision not in FIRST_CAPABILITY or lacking() is not None:
        return
    here = this_machine("tensorrt")
    capability = here.compute_capability
    if capability is not None and not has_precision(capability, precision):
        raise Missing(
            f"{here.gpu} has no {precision.upper()}: its compute capability is {capability}",
            hint=f"{needed_for(precision)}; for this GPU, export with --precision int8 or fp16",
        )


def load_module() -> Any:
    """Import TensorRT.

    Raises:
        Missing: its libraries don't load, for example in a container without them.
    """
    try:
        return importlib.import_module(MODULE)
    except (ImportError, OSError) as error:
        raise Missing(
            f"the Python module tensorrt is installed but does not load: {error}",
            hint="the loader must find its libraries (libnvinfer); check LD_LIBRARY_PATH",
        ) from error


def lacking() -> Missing | None:
    """Return the error if no engine can be built here; None if one can."""
    module = importlib.util.find_spec(MODULE)
    if module is None or module.origin is None:  # Python sees a folder of type stubs as a package
        return Missing(
            "the Python module tensorrt is not installed",
            hint="on a Jetson, use the system's: python3 -m venv --system-site-packages; "
            "elsewhere: pip install tensorrt",
        )
    if not find_gpus().devices:
        return Missing(
            "no NVIDIA GPU on this machine", hint="check with nvidia-smi, then compile here"
        )
    return None


def _build_here(folder: Path, build: Build) -> Compiled:
    """Build on this machine's GPU.

    Raises:
        Missing: its compute capability is unknown. Without it, nobody could judge later where
            the engine loads.
    """
    trt = load_module()
    here = this_machine("tensorrt")
    if here.gpu is None or here.compute_capability is None:
        raise Missing(
            f"the compute capability of {here.gpu} is unknown",
            hint="pip install nvidia-ml-py, or put nvidia-smi on the PATH",
        )
    built_for = _tensorrt.BuiltFor(
        (here.compute_capability,),
        "ampere+" if build.options.hardware_compatible else "none",
        gpu=here.gpu,
        driver=here.driver,
        cuda=_cuda_version(),
    )
    cache = _timing_cache.cache_file(trt.__version__, here.gpu, here.compute_capability)
    done = _tensorrt.build_plan(trt, folder, build, built_for, timing_cache=cache)
    assert done.engine is not None
    _write_layers(trt, folder, build, done.engine.profile or {})
    return done


def _write_layers(trt: Any, folder: Path, build: Build, shapes: dict[str, Any]) -> None:
    """Save TensorRT's description of the engine's layers, for ``exporter inspect``.

    For an engine with open shapes, the inspector gives types and layouts only if a context has set
    all shapes: https://docs.nvidia.com/deeplearning/tensorrt/latest/_static/c-api/
    classnvinfer1_1_1_i_engine_inspector.html, setExecutionContext.

    Raises:
        ExporterError: the engine that was just built doesn't load.
    """
    log = make_log(trt)
    options = build.options
    runtime = start_runtime(
        trt, log, version_compatible=options.version_compatible, dla_core=options.dla_core
    )
    plan = (folder / ENGINE).read_bytes()
    engine = load_engine(trt, runtime, log, plan, "the engine that was just built")
    inspector = engine.create_engine_inspector()
    # Keep the context as long as the inspector, which points to it. It is None if memory is short;
    # the inspector then tells less.
    context = engine.create_execution_context()
    if context is not None:
        for name, accepted in shapes.items():
            context.set_input_shape(name, tuple(accepted["opt"]))
        inspector.execution_context = context
    text = inspector.get_engine_information(trt.LayerInformationFormat.JSON)
    (folder / LAYERS).write_text(text)


def _cuda_version() -> str | None:
    """Return the version of this machine's libcudart; None if it can't be found.

    This asks cuda-python, which building doesn't need. Its cudaRuntimeGetVersion would return the
    version that cuda-python itself was built with.
    """
    try:
        cudart = importlib.import_module("cuda.bindings.runtime")
        _, version = cudart.getLocalRuntimeVersion()
    except (ImportError, RuntimeError, AttributeError):
        return None
    return f"{version // 1000}.{version % 1000 // 10}" if version else None


def _hand_over(folder: Path, build: Build, why: str) -> Compiled:
    """Say how to compile the graph, and check it with NVIDIA's parser if that is installed."""
    model = folder / MODEL
    checked = None
    if importlib.util.find_spec(_PARSER) is not None:
        checked = _tensorrt.check_graph(importlib.import_module(_PARSER), model)
    section = {
        "compiled": False,
        "why": why,
        "options": build.options.as_json(),
        "parser": checked,
        "trtexec": _trtexec.command(_trtexec.read_inputs(model), build),
        "executed": "not run on a GPU",
    }
    return Compiled(section)
