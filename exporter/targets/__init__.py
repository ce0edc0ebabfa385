"""The targets as one literal table. Each target is a file with ``compile`` and ``open``."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from exporter.config import BuildOptions, ExportConfig
from exporter.errors import WrongUse, unknown_name
from exporter.targets.row import ENGINE_BATCH, Build, Compiled, Target, TargetModule

if TYPE_CHECKING:
    from exporter.artifact.folder import Artifact
    from exporter.network.runner import Runner

__all__ = [
    "ENGINE_BATCH",
    "TARGETS",
    "Build",
    "Compiled",
    "Target",
    "TargetModule",
    "check_options",
    "check_request",
    "lookup",
    "open_artifact",
    "runs_on",
    "simulates",
]

# This includes onnxruntime because every graph is compared with Keras before it is accepted.
_EXPORT = (
    ("keras",),
    ("tensorflow", "tensorflow-cpu"),
    ("tf2onnx",),
    ("onnx",),
    ("onnx-ir",),
    ("onnxruntime", "onnxruntime-gpu"),
)
TARGETS: dict[str, Target] = {
    row.name: row
    for row in (
        Target(
            "onnx",
            "the checked graph itself, for any ONNX runtime",
            ("fp32", "fp16", "int8", "fp8"),
            scheme="tensorrt",
            needs="onnxruntime",
            device="any",
            extras="cpu",
            distributions=_EXPORT,
        ),
        Target(
            "ort",
            "ONNX Runtime on the CPU",
            ("fp32", "int8"),
            scheme="cpu",
            needs="onnxruntime",
            device="cpu",
            extras="cpu",
            distributions=_EXPORT,
        ),
        Target(
            "openvino",
            "OpenVINO on the CPU",
            ("fp32", "fp16", "bf16", "int8"),
            scheme="cpu",
            needs="openvino",
            device="cpu",
            extras="cpu,openvino",
            distributions=(*_EXPORT, ("openvino",)),
            cpu_needs={"bf16": ("avx512_bf16", "amx_bf16")},
            half_graph=False,
        ),
        Target(
            "trt",
            "TensorRT engines; without a GPU, a checked graph to compile on the target machine",
            ("fp32", "fp16", "int8", "fp8"),
            scheme="tensorrt",
            needs="onnx",  # TensorRT itself is needed only to build the engine
            extras="cpu",
            distributions=_EXPORT,
            finish_distributions=(("onnx",), ("cuda-python",), ("tensorrt",)),
            finish_extras="target",
            finish_besides="TensorRT: from the system, or pip install tensorrt",
            needs_gpu=True,
            batch_range=True,
            rest="fp16",
            schemes=("tensorrt",),
            honours=(
                "workspace_mib",
                "opt_level",
                "hardware_compatible",
                "version_compatible",
                "dla_core",
            ),
        ),
        Target(
            "trt-rtx",
            "TensorRT-RTX plans, compiled ahead of time without a GPU",
            ("fp32", "fp16", "int8", "fp8"),
            scheme="tensorrt",
            needs="tensorrt_rtx",
            extras="cpu,rtx",
            distributions=(*_EXPORT, ("tensorrt-rtx",)),
            finish_distributions=(("onnx",), ("tensorrt-rtx",)),
            finish_extras="rtx",
            batch_range=True,
            rest="fp16",
            schemes=("tensorrt",),
            honours=("compute_capabilities",),
            # Without a list, the builder compiles for 8.0 and 8.6 too, which have no FP8.
            builds_for={"fp8": ("8.9", "12.0")},
        ),
        Target(
            "ort-cuda",
            "ONNX Runtime's CUDA provider; compiled and run on the GPU machine",
            ("fp32", "fp16"),
            scheme="tensorrt",
            needs="onnxruntime",
            extras="cpu",
            distributions=_EXPORT,
            finish_distributions=(("onnx",), ("onnxruntime-gpu",)),
            finish_extras="ort-gpu",
            needs_gpu=True,
            honours=("tf32", "allow_fallback"),
        ),
        Target(
            "ort-trt",
            "ONNX Runtime's TensorRT provider; compiled and run on the GPU machine",
            ("fp32", "fp16", "int8"),
            scheme="tensorrt",
            needs="onnxruntime",
            extras="cpu",
            distributions=_EXPORT,
            finish_distributions=(("onnx",), ("onnxruntime-gpu",), ("tensorrt",)),
            finish_extras="ort-gpu",
            finish_besides="TensorRT 10: pip install 'tensorrt<11'",
            needs_gpu=True,
            batch_range=True,
            rest="fp16",
            schemes=("tensorrt",),
            honours=("allow_fallback",),
        ),
        Target(
            "ort-trt-rtx",
            "TensorRT-RTX in ONNX Runtime; compiled and run on the GPU machine",
            ("fp32", "fp16", "int8"),
            scheme="tensorrt",
            needs="onnxruntime",
            extras="cpu",
            distributions=_EXPORT,
            finish_distributions=(
                ("onnx",),
                ("onnxruntime", "onnxruntime-gpu"),
                ("onnxruntime-ep-nv-tensorrt-rtx",),
            ),
            finish_extras="ort-rtx",
            needs_gpu=True,
            batch_range=True,
            rest="fp16",
            schemes=("tensorrt",),
            honours=("allow_fallback",),
        ),
    )
}


def lookup(name: str) -> Target:
    """Find a target by name.

    Raises:
        WrongUse: there is no such target. The hint lists the nearest names.
    """
    if name not in TARGETS:
        raise unknown_name("target", name, TARGETS)
    return TARGETS[name]


def check_request(config: ExportConfig) -> tuple[Target, ExportConfig]:
    """Refuse an export that can't be done as asked, before any work.

    Returns:
        The target, and the request with the batch sizes that an engine will get.

    Raises:
        WrongUse: the target can't do it, or two options contradict each other.
        Missing: this machine lacks what the request needs.
    """
    from exporter.targets.quantized import refuse_methods, scheme_of

    target = lookup(config.target)
    target.check_precision(config.precision)
    target.check_cpu(config.precision)
    target.check_gpu(config.precision)
    target.check_batch(config.batch)
    target.check_scheme(config.int8.scheme)
    if config.is_quantized:
        refuse_methods(config, scheme_of(config, target.scheme))
    target.check_weight_bits(config)
    target.types_half(config)
    check_options(target, config.build)
    config = replace(config, batch=target.bounded(config.batch))
    target.check_build(config.build, config.precision, config.batch)
    return target, config


def check_options(target: Target, options: BuildOptions) -> None:
    """Refuse build options that have no effect on a target.

    Raises:
        WrongUse: the target doesn't take an option. Names the targets that do.
    """
    for name in options.asked:
        if name not in target.honours:
            takers = [row.name for row in TARGETS.values() if name in row.honours]
            raise WrongUse(
                f"target {target.name!r} does not take {name.replace('_', '-')}",
                hint=f"these targets do: {', '.join(takers)}",
            )


def runs_on(target: str) -> str | None:
    """Return the device of a target's engines, as in its row; None if we don't know the target."""
    return TARGETS[target].device if target in TARGETS else None


def simulates(artifact: Artifact) -> bool:
    """Return whether running an artifact here only simulates the engine that its graph is for."""
    return runs_on(artifact.target) == "any" and artifact.passport["precision"] != "fp32"


def open_artifact(artifact: Artifact, threads: int | None = None) -> Runner:
    """Open an artifact with the runtime it was compiled for."""
    row = lookup(artifact.target)
    row.check_cpu(artifact.passport["precision"])
    return row.load().open(artifact, threads)
