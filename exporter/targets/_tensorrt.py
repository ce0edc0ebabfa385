"""One builder for TensorRT and TensorRT-RTX: it turns a typed ONNX graph into an engine.

``trt`` is the module ``tensorrt`` or ``tensorrt_rtx``; both have the same API. The graph itself
contains the precision (FP16 tensors, Q/DQ), and the network is strongly typed. TensorRT 10 and 11
both support that. Releases without such networks (8.6), and DLAs before 11, need flags instead:
see :func:`_create_network`.
A test checks every attribute used here against the names in 10.13 and 11, and each call against
the types in 10.13's stubs.
"""

from __future__ import annotations

import platform
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from exporter.artifact.folder import MODEL
from exporter.engines.record import ENGINE, EngineRecord, HardwareCompatibility
from exporter.errors import ConversionError, ExporterError, Missing, WrongUse
from exporter.targets import Compiled, _timing_cache
from exporter.targets._tensorrt_load import starting
from exporter.targets._tensorrt_watch import Log, interruptible, make_log, make_monitor
from exporter.targets.row import filled, ranges

if TYPE_CHECKING:
    import tensorrt

    from exporter.config import BuildOptions
    from exporter.targets import Build


@dataclass(frozen=True)
class BuiltFor:
    """The GPUs that an engine is for, and other facts about the machine for its record.

    The fields are the same as in :class:`EngineRecord`.
    """

    compute_capabilities: tuple[str, ...]
    hardware_compatibility: HardwareCompatibility
    gpu: str | None = None
    driver: str | None = None
    cuda: str | None = None


def build_plan(
    trt: Any,
    folder: Path,
    build: Build,
    built_for: BuiltFor,
    *,
    timing_cache: Path | None = None,
) -> Compiled:
    """Build ``engine.plan`` from ``model.onnx`` in the same folder.

    Args:
        trt: the TensorRT module.
        folder: the artifact's folder; the plan is written there.
        build: the build request.
        built_for: the GPUs to build for.
        timing_cache: file of layer timings to use and extend.

    Raises:
        ConversionError: the parser refuses the graph. Names the node and its Keras layer.
        WrongUse: this machine or module can't do what an option requests.
        Missing: TensorRT doesn't start here.
        ExporterError: the build failed.
    """
    log = make_log(trt)
    builder = start(trt, log)
    config = builder.create_builder_config()
    network, typing = _create_network(trt, builder, config, build, folder / MODEL)
    parser = parse(trt, network, log, folder / MODEL)  # owns the weights that the network uses
    shapes = _add_profile(builder, network, config, build)
    _apply(trt, config, build)
    dla = _place_on_dla(trt, builder, network, config, build)
    cache = None if timing_cache is None else _timings(config, _timing_cache.load(timing_cache))
    started = time.perf_counter()
    plan = _run(trt, builder, network, config, log, build)
    seconds = time.perf_counter() - started
    if timing_cache is not None and cache is not None:
        _timing_cache.save(timing_cache, bytes(cache.serialize()))
    (folder / ENGINE).write_bytes(plan)
    del parser
    section = {
        "compiled": True,
        "typing": typing,
        "tf32": build.precision != "fp32",
        "options": build.options.as_json(),
        "dla": dla,
        "build_seconds": round(seconds, 2),
        "warnings": log.warnings,
    }
    return Compiled(section, _record(trt, build, built_for, shapes))


def _record(
    trt: Any, build: Build, built_for: BuiltFor, shapes: dict[str, list[list[int]]]
) -> EngineRecord:
    return EngineRecord(
        trt.__name__,
        trt.__version__,
        built_for.compute_capabilities,
        built_for.hardware_compatibility,
        build.options.version_compatible,
        platform.system().lower(),
        platform.machine(),
        cuda=built_for.cuda,
        driver=built_for.driver,
        gpu=built_for.gpu,
        dla_core=build.options.dla_core,
        profile={
            name: dict(zip(("min", "opt", "max"), ranges, strict=True))
            for name, ranges in shapes.items()
        },
    )


def check_graph(trt: Any, model: Path) -> dict[str, Any]:
    """Check a graph with NVIDIA's parser, without building an engine.

    Returns:
        Fields for the passport: module, version, warnings.

    Raises:
        ConversionError: the parser refuses the graph. Names the node and its Keras layer.
    """
    log = make_log(trt)
    builder = start(trt, log)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parse(trt, network, log, model)
    return {"module": trt.__name__, "version": trt.__version__, "warnings": log.warnings}


def start(trt: Any, log: Log) -> tensorrt.Builder:
    """Return a builder.

    Raises:
        Missing: TensorRT is installed but doesn't start, for example without a GPU or driver.
    """
    with starting(trt, log):
        builder: tensorrt.Builder = trt.Builder(log)
    return builder


def _create_network(
    trt: Any,
    builder: tensorrt.Builder,
    config: tensorrt.IBuilderConfig,
    build: Build,
    model: Path,
) -> tuple[tensorrt.INetworkDefinition, str]:
    """Return an empty network, and a description of how it gets its precision.

    Usually it gets its precision from the graph's types. Releases before 10 only support flags,
    and DLAs before 11 need flags too (trtexec sets the same, samples/common/sampleEngines.cpp).

    Raises:
        WrongUse: this release takes neither FP8 nor this form of INT8.
    """
    int8, by_flags = build.precision == "int8", hasattr(trt.BuilderFlag, "FP16")
    on_dla = by_flags and build.options.dla_core is not None
    typed = hasattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED")
    if typed and not on_dla:
        flag = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
        return builder.create_network(flag), "strongly typed"
    if build.precision == "fp8":
        raise WrongUse(
            f"FP8 needs strongly typed networks, which TensorRT {trt.__version__} doesn't have",
            hint="use TensorRT 10 or later, or export it again with --precision int8",
        )
    half = build.precision == "fp16" or _has_half(model)
    if int8 and on_dla:
        raise WrongUse(
            f"TensorRT {trt.__version__} can't run a graph with Q/DQ on a DLA: it needs a "
            "calibrator's ranges instead, which releases from 11 on no longer support",
            hint="export it again with --precision fp16, or without --dla-core",
        )
    if int8 and half:
        raise WrongUse(
            f"TensorRT {trt.__version__} needs FP32 scales for Q/DQ, but this graph's are FP16",
            hint="export it again with --rest fp32",
        )
    names = [name for name, wanted in (("INT8", int8), ("FP16", half)) if wanted]
    for name in names:
        config.set_flag(getattr(trt.BuilderFlag, name))
    explicit = getattr(trt.NetworkDefinitionCreationFlag, "EXPLICIT_BATCH")  # noqa: B009
    return builder.create_network(1 << int(explicit)), f"flags: {' '.join(names) or 'none'}"


def _has_half(model: Path) -> bool:
    import onnx

    graph = onnx.load(model, load_external_data=False).graph
    return any(weight.data_type == onnx.TensorProto.FLOAT16 for weight in graph.initializer)


def parse(
    trt: Any, network: tensorrt.INetworkDefinition, log: Log, model: Path
) -> tensorrt.OnnxParser:
    """Fill a network from a graph. The returned parser must outlive the build.

    Raises:
        ConversionError: the parser refuses the graph. Names the node and its Keras layer.
    """
    parser: tensorrt.OnnxParser = trt.OnnxParser(network, log)
    if parser.parse(model.read_bytes()):
        return parser
    count = parser.num_errors
    if count == 0:
        raise ConversionError(f"{trt.__name__} refuses the graph: {' '.join(log.errors)}")
    error = parser.get_error(0)
    where = _name_node(model, error.node())
    raise ConversionError(
        f"{trt.__name__} {trt.__version__} refuses {where}: {error.desc()}",
        hint=_advice(error, count),
    )


def _name_node(model: Path, index: int) -> str:
    """Describe the node that the parser means, and the Keras layer it came from."""
    import onnx

    from exporter.passes import LAYER_KEY

    try:
        nodes = onnx.load(model, load_external_data=False).graph.node
    except Exception:  # protobuf's own type; the parser has already reported the problem
        return "the graph"
    if not 0 <= index < len(nodes):
        return "the graph"
    node = nodes[index]
    layers = [prop.value for prop in node.metadata_props if prop.key == LAYER_KEY]
    layer = f", Keras layer {layers[0]!r}" if layers else ""
    return f"{node.op_type} node {node.name!r}{layer}"


def _advice(error: tensorrt.ParserError, count: int) -> str:
    if "zero point" in error.desc().lower():
        return "TensorRT takes only symmetric INT8: export with --scheme tensorrt"
    return f"{count} errors in total; TensorRT doesn't support this op or this form of it"


def _add_profile(
    builder: tensorrt.Builder,
    network: tensorrt.INetworkDefinition,
    config: tensorrt.IBuilderConfig,
    build: Build,
) -> dict[str, list[list[int]]]:
    """Set the range of every open dimension, and return (min, opt, max) shapes by input."""
    profile = builder.create_optimization_profile()
    shapes: dict[str, list[list[int]]] = {}
    is_open = False
    for index in range(network.num_inputs):
        tensor = network.get_input(index)
        known = len(build.size.usual) if build.size else 0
        if list(tensor.shape)[1:].count(-1) not in (0, known):
            raise ConversionError(
                f"input {tensor.name!r} has open dimensions besides its batch: {tensor.shape}",
                hint="export it again with --input-size",
            )
        sizes = ranges(build.batch, build.size)
        shapes[tensor.name] = [filled(tensor.shape, *each) for each in sizes]
        if -1 in tensor.shape:
            is_open = True
            profile.set_shape(tensor.name, *(tuple(shape) for shape in shapes[tensor.name]))
    if is_open and config.add_optimization_profile(profile) < 0:
        raise ExporterError(f"TensorRT refuses the range of sizes {shapes}")
    return shapes


def _apply(trt: Any, config: tensorrt.IBuilderConfig, build: Build) -> None:
    """Apply the build options. Those that aren't set keep TensorRT's defaults."""
    options = build.options
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED  # for `exporter inspect`
    if build.precision == "fp32":  # by default, TensorRT rounds to TF32's 10 bits
        config.clear_flag(trt.BuilderFlag.TF32)
    if options.workspace_mib is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace_mib << 20)
    if options.opt_level is not None:
        config.builder_optimization_level = options.opt_level
    if options.hardware_compatible:
        config.hardware_compatibility_level = trt.HardwareCompatibilityLevel.AMPERE_PLUS
    if options.version_compatible:
        config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
    if options.compute_capabilities:
        _set_capabilities(trt, config, options)


def _set_capabilities(trt: Any, config: Any, options: BuildOptions) -> None:
    """Compile for GPUs that this machine needn't have (TensorRT-RTX only).

    Raises:
        WrongUse: the module doesn't know one of them. Lists those it knows.
    """
    members = trt.ComputeCapability.__members__
    known = {f"{name[2:-1]}.{name[-1]}": name for name in members if name.startswith("SM")}
    unknown = [name for name in options.compute_capabilities if name not in known]
    if unknown:
        raise WrongUse(
            f"{trt.__name__} {trt.__version__} can't compile for {', '.join(unknown)}",
            hint=f"it can compile for: {', '.join(known)}",
        )
    config.num_compute_capabilities = len(options.compute_capabilities)
    for index, name in enumerate(options.compute_capabilities):
        config.set_compute_capability(members[known[name]], index)


def _place_on_dla(
    trt: Any,
    builder: tensorrt.Builder,
    network: tensorrt.INetworkDefinition,
    config: tensorrt.IBuilderConfig,
    build: Build,
) -> dict[str, Any] | None:
    """Place layers on the DLA core if they can run there, and report the others up front.

    Raises:
        Missing: this machine has no such core.
    """
    core = build.options.dla_core
    if core is None:
        return None
    if core >= builder.num_DLA_cores:
        raise Missing(
            f"this machine has no DLA core {core}; it has {builder.num_DLA_cores}",
            hint="Jetson Orin and Xavier have DLA cores; leave --dla-core out elsewhere",
        )
    config.default_device_type = trt.DeviceType.DLA
    config.DLA_core = core
    config.set_flag(trt.BuilderFlag.GPU_FALLBACK)
    layers = [network.get_layer(index) for index in range(network.num_layers)]
    on_gpu = [layer.name for layer in layers if not config.can_run_on_DLA(layer)]
    if len(on_gpu) == len(layers):
        raise ExporterError(
            f"none of the network's {len(layers)} layers can run on a DLA",
            hint="leave --dla-core out, as the engine would run only on the GPU",
        )
    note = f"the rest on the GPU: {', '.join(on_gpu)}" if on_gpu else ""
    build.progress("layers on DLA", len(layers) - len(on_gpu), len(layers), note)
    return {"layers": len(layers), "on_gpu": on_gpu}


def _timings(config: tensorrt.IBuilderConfig, timings: bytes) -> tensorrt.ITimingCache:
    """Attach a timing cache. If it is damaged or from another release, use an empty one."""
    cache = config.create_timing_cache(timings) or config.create_timing_cache(b"")
    if not config.set_timing_cache(cache, ignore_mismatch=False):
        cache = config.create_timing_cache(b"")
        config.set_timing_cache(cache, ignore_mismatch=False)
    return cache


def _run(
    trt: Any,
    builder: tensorrt.Builder,
    network: tensorrt.INetworkDefinition,
    config: tensorrt.IBuilderConfig,
    log: Log,
    build: Build,
) -> bytes:
    """Build until done or Ctrl-C, with progress if TensorRT reports it (from 10.0 on).

    Raises:
        ExporterError: TensorRT fails. Contains its last error.
    """
    stage = f"build with {trt.__name__}"
    if hasattr(config, "progress_monitor"):
        monitor = make_monitor(trt, build.progress, stage)
        config.progress_monitor = monitor
        plan = interruptible(
            lambda: builder.build_serialized_network(network, config), monitor.stop
        )
        if monitor.failure is not None:
            raise monitor.failure
    else:
        build.progress(stage, 0, 100)
        plan = builder.build_serialized_network(network, config)
    if plan is None:
        reason = log.errors[-1] if log.errors else "it gave no reason"
        raise ExporterError(f"{trt.__name__} {trt.__version__} could not build: {reason}")
    build.progress(stage, 100, 100)
    return bytes(plan)
