"""Targets on onnxruntime's GPU providers: exported anywhere, compiled and run on a GPU machine."""

from __future__ import annotations

import importlib
import importlib.util
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from exporter.artifact.folder import MODEL, Artifact
from exporter.config import Batch, BuildOptions, InputSize, Precision
from exporter.errors import Missing
from exporter.machine.gpus import find_gpus, in_use
from exporter.targets import Build, Compiled, _ort_providers, _tensorrt
from exporter.targets._ort_gpu import OrtGpuRunner, Request, cache_key
from exporter.targets._ort_providers import Provider
from exporter.targets.row import filled, ranges

_PARSER = "tensorrt_rtx"  # NVIDIA's parser, which works without a GPU


@dataclass(frozen=True)
class Wanted:
    """What determines a provider's options.

    Attributes:
        model: the graph.
        precision: precision of the graph.
        batch: batch sizes to accept.
        build: the user's build options.
        cache: folder for what the provider compiles from this graph on this GPU.
        size: sizes of open dimensions besides the batch, if there are any.
    """

    model: bytes
    precision: Precision
    batch: Batch
    build: BuildOptions
    cache: Path
    size: InputSize | None = None


Options = Callable[[Wanted], dict[str, str]]


def compile(folder: Path, build: Build, provider: Provider, options: Options) -> Compiled:
    """Open the graph on the provider and record where its nodes run, or say how to compile it.

    Raises:
        Missing: ``build.here`` is set, but the provider or a GPU is missing.
        ExporterError: the provider refuses the graph, or nodes would fall back.
    """
    model = (folder / MODEL).read_bytes()
    try:
        gpu = _gpu(provider)
    except Missing as missing:
        if build.here:
            raise
        return _hand_over(folder, build, provider, missing.message)
    cache = _cache(model, provider, gpu)
    wanted = Wanted(model, build.precision, build.batch, build.options, cache, build.size)
    asked = Request(provider, options(wanted), build.options.allow_fallback, "the artifact")
    with OrtGpuRunner(model, asked) as runner:
        placement = runner.placement
    return Compiled(
        {
            "compiled": True,
            "provider": provider.name,
            "versions": _ort_providers.versions(provider),
            "gpu": gpu,
            "options": build.options.as_json(),
            "placement": placement.as_json(),
        }
    )


def open(artifact: Artifact, provider: Provider, options: Options) -> OrtGpuRunner:
    """Open ``model.onnx`` on the provider, if its hash matches the passport.

    We read where nodes run each time, as another version may place them differently.

    Raises:
        Missing: the provider or a GPU is missing.
    """
    gpu = _gpu(provider)
    passport = artifact.passport
    sizes = passport["batch"]
    build = BuildOptions.from_json(passport[artifact.target].get("options", {}))
    artifact.file(MODEL)  # refuses weights in other files
    model = artifact.read_bytes(MODEL)
    batch = Batch(sizes["min"], sizes["opt"], sizes["max"])
    cache = _cache(model, provider, gpu)
    wanted = Wanted(model, passport["precision"], batch, build, cache, artifact.input_size)
    return OrtGpuRunner(
        model, Request(provider, options(wanted), build.allow_fallback, str(artifact.path))
    )


def profiles(wanted: Wanted, provider: Provider) -> dict[str, str]:
    """Return the options for the smallest, best and largest shapes of every input."""
    import onnx

    if provider.profiles is None or wanted.batch.maximum is None:
        return {}
    inputs = onnx.load_model_from_string(wanted.model).graph.input
    found = {}
    for end, sizes in zip(("min", "opt", "max"), ranges(wanted.batch, wanted.size), strict=True):
        shapes = (
            f"{port.name}:{'x'.join(map(str, _shape(port.type.tensor_type.shape, *sizes)))}"
            for port in inputs
        )
        found[f"{provider.profiles}_{end}_shapes"] = ",".join(shapes)
    return found


def _shape(shape: Any, batch: int, sizes: tuple[int, ...]) -> list[int]:
    """Return a shape with numbers for its open dimensions."""
    known = (axis.dim_value if axis.HasField("dim_value") else -1 for axis in shape.dim)
    return filled(known, batch, sizes)


def _gpu(provider: Provider) -> str:
    """Make sure that this machine has the provider and a GPU, and return the GPU's name.

    Raises:
        Missing: one of them is missing.
    """
    _ort_providers.require(provider)
    gpu = in_use(find_gpus().devices)
    if gpu is None:
        raise Missing(
            "no NVIDIA GPU on this machine", hint="check with nvidia-smi, then compile here"
        )
    return gpu.name


def _cache(model: bytes, provider: Provider, gpu: str) -> Path:
    """Create a cache folder below ``$XDG_CACHE_HOME`` that only this user may read.

    Its files are loaded as code, so they are never part of an artifact.
    """
    home = os.environ.get("XDG_CACHE_HOME")
    base = Path(home) if home and Path(home).is_absolute() else Path.home() / ".cache"
    folder = base / "exporter" / "engines" / cache_key(model, provider, gpu)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder


def _hand_over(folder: Path, build: Build, provider: Provider, why: str) -> Compiled:
    """Say how to compile the graph, and check it with NVIDIA's parser if the provider uses that."""
    checked = None
    if provider.profiles is not None and importlib.util.find_spec(_PARSER) is not None:
        checked = _tensorrt.check_graph(importlib.import_module(_PARSER), folder / MODEL)
    return Compiled(
        {
            "compiled": False,
            "why": why,
            "provider": provider.name,
            "options": build.options.as_json(),
            "parser": checked,
            "executed": "not run on a GPU",
        }
    )
