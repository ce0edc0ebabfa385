"""Build the ``trtexec`` command that does what ``exporter compile`` does, for TensorRT 10 and 11.

The flags are those in samples/common/sampleOptions.cpp of NVIDIA/TensorRT. TensorRT 10 needs
``--stronglyTyped``. TensorRT 11, where every network is strongly typed, accepts it. Releases
before 10 don't know it. FP16 on a DLA is the exception: its command has ``--fp16`` and is for 10.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from exporter.artifact.folder import MODEL
from exporter.engines.record import ENGINE, LAYERS

if TYPE_CHECKING:
    from exporter.targets import Build


def command(inputs: Mapping[str, Sequence[int | None]], build: Build) -> str:
    """Return the command, to be run inside the artifact's folder.

    Args:
        inputs: shape by input name; None for an open batch.
        build: the build request.
    """
    options = build.options
    flags = [f"--onnx={MODEL}", f"--saveEngine={ENGINE}"]
    # Before 11, a DLA needs these flags and takes no Q/DQ. From 11 on, the flags don't exist.
    by_flag = options.dla_core is not None and build.precision == "fp16"
    flags.append("--fp16" if by_flag else "--stronglyTyped")
    flags += _shapes(inputs, build)
    flags += ["--noTF32"] if build.precision == "fp32" else []
    if options.workspace_mib is not None:
        flags.append(f"--memPoolSize=workspace:{options.workspace_mib}")
    if options.opt_level is not None:
        flags.append(f"--builderOptimizationLevel={options.opt_level}")
    flags += ["--hardwareCompatibilityLevel=ampere+"] if options.hardware_compatible else []
    flags += ["--versionCompatible"] if options.version_compatible else []
    if options.dla_core is not None:
        flags += [f"--useDLACore={options.dla_core}", "--allowGPUFallback"]
    flags += ["--profilingVerbosity=detailed", f"--exportLayerInfo={LAYERS}"]
    # Make a short run: with --skipInference, layers with open shapes would have no types.
    flags += ["--timingCacheFile=timing.cache", "--warmUp=0", "--duration=0", "--iterations=1"]
    return shlex.join(["trtexec", *flags])


def read_inputs(model: Path) -> dict[str, list[int | None]]:
    """Return the shapes of a graph's inputs by name. Open dimensions are None."""
    import onnx

    return {
        value.name: [
            dim.dim_value if dim.HasField("dim_value") else None
            for dim in value.type.tensor_type.shape.dim
        ]
        for value in onnx.load(model, load_external_data=False).graph.input
    }


def _shapes(inputs: Mapping[str, Sequence[int | None]], build: Build) -> list[str]:
    """Return shape flags for inputs with an open batch. trtexec refuses them for fixed inputs."""
    batch = build.batch
    sizes = {"min": batch.minimum, "opt": batch.usual, "max": batch.maximum or batch.usual}
    is_open = {name: shape for name, shape in inputs.items() if None in shape}
    if not is_open:
        return []
    return [
        f"--{which}Shapes="
        + ",".join(
            f"{name}:{'x'.join(str(size if dim is None else dim) for dim in shape)}"
            for name, shape in is_open.items()
        )
        for which, size in sizes.items()
    ]
