"""The row type of the table of targets, and the checks of a request before any work."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, cast

from exporter.config import Batch, BuildOptions, InputSize
from exporter.engines.record import FIELD, EngineRecord
from exporter.errors import Missing, WrongUse
from exporter.machine.capabilities import check_capabilities
from exporter.machine.install import pip_line
from exporter.progress import Progress, silent

if TYPE_CHECKING:
    from exporter.artifact.folder import Artifact
    from exporter.config import ExportConfig, FloatType, Precision, SchemeName
    from exporter.network.runner import Runner


@dataclass(frozen=True)
class Build:
    """A request to compile. Each target uses the fields that it needs.

    Attributes:
        batch: batch sizes that the engine must accept; bounded if the target has ``batch_range``.
        precision: precision of the graph.
        options: builder options; only those that the target's row honors.
        progress: called with the builder's progress.
        size: the sizes of open dimensions besides the batch, if there are any.
        here: build now or fail, even if the target could leave the build to another machine.
    """

    batch: Batch
    precision: Precision
    options: BuildOptions
    progress: Progress = silent
    here: bool = False
    size: InputSize | None = None


def ranges(
    batch: Batch, size: InputSize | None
) -> tuple[tuple[int, tuple[int, ...]], tuple[int, tuple[int, ...]], tuple[int, tuple[int, ...]]]:
    """Return (batch, sizes of open dimensions) for the smallest, usual and largest input."""
    known = size or InputSize((), (), ())
    return (
        (batch.minimum, known.minimum),
        (batch.usual, known.usual),
        (batch.maximum or batch.usual, known.maximum or known.usual),
    )


def filled(shape: Iterable[int], batch: int, sizes: Sequence[int]) -> list[int]:
    """Return a shape with numbers for its open dimensions (-1): the batch, then the sizes.

    An NCHW image has its open dimensions in the same order as an NHWC image.
    """
    first, *rest = shape
    left = iter(sizes)
    return [batch if first == -1 else first, *(next(left) if n == -1 else n for n in rest)]


@dataclass(frozen=True)
class Compiled:
    """The result of compiling a graph for a target.

    Attributes:
        section: the passport's entry under the target's name.
        engine: for a TensorRT engine, everything that decides where it loads.
    """

    section: dict[str, Any]
    engine: EngineRecord | None = None

    def fields(self, target: str, **more: Any) -> dict[str, Any]:
        """Return the passport's fields. ``more`` goes into the target's entry."""
        engine = {} if self.engine is None else {FIELD: self.engine.as_json()}
        return {target: {**self.section, **more}, **engine}


class TargetModule(Protocol):
    """What a target's file provides."""

    def compile(self, folder: Path, build: Build) -> Compiled:
        """Turn ``folder/model.onnx`` into the files that the runtime opens."""

    def open(self, artifact: Artifact, threads: int | None = None) -> Runner:
        """Check the files against the passport, and return a runner."""

    def check_gpu(self, precision: str) -> None:
        """Refuse a precision that this machine's GPU lacks. Only for targets that build on it."""


@dataclass(frozen=True)
class Target:
    """One target: where its code is, what it can do, and what it needs.

    Attributes:
        name: the name for users; the target's file has the same name.
        summary: a description in a few words.
        precisions: the precisions that it supports.
        scheme: the default Q/DQ scheme of its INT8 graphs.
        needs: the module that its file imports.
        extras: extras of this package that install what it needs.
        distributions: packages needed to export to it: any one of each group.
        finish_distributions: packages needed for ``exporter compile`` and for running, on a
            machine that doesn't export; empty if there is nothing to compile.
        finish_extras: extras that install these.
        finish_besides: a note on what no extra installs.
        device: where its engines run; ``any`` if it leaves that to whoever runs the graph.
        needs_gpu: whether building its engine needs an NVIDIA GPU.
        batch_range: whether its engines are built for a range of batch sizes.
        cpu_needs: for precisions that not every CPU has, instruction sets of which the CPU
            needs any one.
        rest: default type of what INT8 leaves in floating point, if the scheme has no default.
        schemes: the schemes whose INT8 graphs its parser accepts.
        half_graph: whether its graphs have FP16 types. If not, the target itself stores weights
            as FP16.
        honours: the fields of :class:`BuildOptions` that it takes.
        builds_for: GPUs to build for, by precision, if some of the builder's default GPUs lack it.
    """

    name: str
    summary: str
    precisions: tuple[Precision, ...]
    scheme: SchemeName
    needs: str
    extras: str
    distributions: tuple[tuple[str, ...], ...]
    finish_distributions: tuple[tuple[str, ...], ...] = ()
    finish_extras: str | None = None
    finish_besides: str | None = None
    device: Literal["any", "cpu", "gpu"] = "gpu"
    needs_gpu: bool = False
    batch_range: bool = False
    cpu_needs: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    rest: FloatType = "fp32"
    schemes: tuple[SchemeName, ...] = ("tensorrt", "cpu")
    half_graph: bool = True
    honours: tuple[str, ...] = ()
    builds_for: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def on_onnxruntime(self) -> bool:
        """Whether onnxruntime runs its graph on the CPU, so that there is no engine to open."""
        return self.needs == "onnxruntime" and self.device != "gpu"

    @property
    def install(self) -> str:
        """The command that installs what it needs."""
        return pip_line(self.extras)

    @property
    def finish_install(self) -> str | None:
        """The command that installs what compiling needs. None if there is nothing to compile."""
        if self.finish_extras is None:
            return None
        return "; ".join(filter(None, (pip_line(self.finish_extras), self.finish_besides)))

    def load(self) -> TargetModule:
        """Import the target's file.

        Raises:
            Missing: the library that it needs is not installed.
        """
        if importlib.util.find_spec(self.needs) is None:
            raise Missing(f"target {self.name!r} needs {self.needs}", hint=self.install)
        module = importlib.import_module(f"exporter.targets.{self.name.replace('-', '_')}")
        return cast(TargetModule, module)

    def check_precision(self, precision: Precision) -> None:
        """Refuse a precision that the target doesn't support.

        Raises:
            WrongUse: it doesn't. The hint lists those that it supports.
        """
        if precision not in self.precisions:
            raise WrongUse(
                f"target {self.name!r} does not support {precision}",
                hint=f"it supports: {', '.join(self.precisions)}",
            )

    def check_scheme(self, scheme: SchemeName | None) -> None:
        """Refuse a scheme that the target's parser would only refuse after all the work.

        Raises:
            WrongUse: names both sides.
        """
        if scheme is not None and scheme not in self.schemes:
            raise WrongUse(
                f"--scheme {scheme} and --to {self.name} contradict each other: "
                "TensorRT takes only signed, symmetric INT8",
                hint=f"leave out --scheme: {self.name} uses {self.scheme}",
            )

    def check_weight_bits(self, config: ExportConfig) -> None:
        """Refuse weight bits that have no use, or that would give wrong measurements on this CPU.

        Raises:
            WrongUse: 7 bits with a scheme other than ``cpu``.
            Missing: a choice needs to run 8-bit weights, whose sums saturate here.
        """
        from exporter.machine.cpus import lacks_vnni
        from exporter.targets.quantized import scheme_of

        if not config.is_quantized:
            return
        scheme = scheme_of(config, self.scheme).name
        if config.int8.weight_bits == 7 and scheme != "cpu":
            raise WrongUse(
                f"7-bit weights are for CPUs without VNNI, but the scheme is {scheme}",
                hint="leave out --weight-bits, or give --scheme cpu if the target supports it",
            )
        budget, bias = config.int8.max_drop is not None, "bias" in (config.int8.recovery or ())
        asked = "--max-drop" if budget else "--recovery bias"
        if config.int8.weight_bits == 8 and scheme == "cpu" and (budget or bias) and lacks_vnni():
            raise Missing(
                f"{asked} can't run 8-bit weights here: this CPU has no VNNI, so sums would "
                "saturate",
                hint="give --weight-bits 7, or export on a CPU with VNNI",
            )

    def check_cpu(self, precision: str) -> None:
        """Refuse a precision that this machine's CPU would silently run in another one.

        Raises:
            Missing: the CPU lacks the instruction sets for the precision, as far as known.
        """
        from exporter.machine.cpus import cpu_has_any

        needs = self.cpu_needs.get(precision)
        if needs and not cpu_has_any(needs):
            raise Missing(
                f"this CPU has no {precision}: it has none of the instruction sets "
                f"{', '.join(needs)}",
                hint=f"use a CPU that has one, or leave out --precision {precision}",
            )

    def check_gpu(self, precision: str) -> None:
        """Raise Missing if an engine would be built here, but the GPU lacks the precision."""
        if self.needs_gpu and precision == "fp8":
            self.load().check_gpu(precision)

    def types_half(self, config: ExportConfig) -> bool:
        """Return whether the graph gets FP16, in all of it or in what INT8 or FP8 leaves.

        Raises:
            WrongUse: the target has no FP16, or the request wants FP16 inputs and outputs for a
                graph without FP16.
        """
        from exporter.targets.quantized import scheme_of

        scheme = scheme_of(config, self.scheme) if config.is_quantized else None
        rest: str = config.precision
        if scheme is not None:
            rest = config.int8.rest or scheme.rest or self.rest
        if rest == "fp16" and not self.half_graph:
            if scheme is not None or config.io == "fp16":
                raise WrongUse(f"target {self.name!r} supports FP16 only for stored weights")
            return False
        if rest == "fp16":
            self.check_precision("fp16")
            if scheme is not None and scheme.name == "cpu":
                raise WrongUse(
                    "--scheme cpu and FP16 around it contradict each other",
                    hint="leave out --scheme, or add --rest fp32, as CPUs have no FP16 kernels",
                )
        elif config.io == "fp16":
            raise WrongUse(
                f"--io fp16: target {self.name!r} leaves the rest of an "
                f"{config.precision.upper()} graph in FP32",
                hint="add --rest fp16",
            )
        return rest == "fp16"

    def check_batch(self, batch: Batch) -> None:
        """Refuse a range of batch sizes if the target's engines take either one size or any.

        Raises:
            WrongUse: it is a range. The hint names the alternatives.
        """
        if batch.maximum is not None and batch.fixed is None and not self.batch_range:
            raise WrongUse(
                f"target {self.name!r} does not support a range of batch sizes",
                hint="give one size, such as --batch 1, or leave --batch out to accept any",
            )

    def check_size(self, size: InputSize | None) -> None:
        """Refuse open dimensions without a largest size, if the target's engines need one.

        Raises:
            WrongUse: there is no largest size.
        """
        if size is not None and size.maximum is None and self.batch_range:
            example = "x".join(["{}"] * len(size.usual))
            low, usual, high = (example.format(*[n] * len(size.usual)) for n in (1, 16, 128))
            raise WrongUse(
                f"target {self.name!r} needs the sizes of the network's open dimensions",
                hint=f"give the smallest, the usual and the largest, such as --input-size "
                f"{low}:{usual}:{high}, or one fixed size",
            )

    def check_build(self, options: BuildOptions, precision: Precision, batch: Batch) -> None:
        """Refuse build options that contradict the rest of the request.

        Raises:
            WrongUse: names both sides.
        """
        check_capabilities(options.compute_capabilities, precision)
        if options.dla_core is None:
            return
        if precision == "fp8":
            raise WrongUse("a DLA computes only in FP16 and INT8, but --precision is fp8")
        if precision == "fp32":
            raise WrongUse("a DLA computes only in FP16 and INT8, but --precision is fp32")
        if batch.fixed is None:
            raise WrongUse(
                f"a DLA takes only one batch size, but --batch is "
                f"{batch.minimum}:{batch.usual}:{batch.maximum}",
                hint="give one size, such as --batch 1",
            )

    def bounded(self, batch: Batch) -> Batch:
        """Return the batch sizes to build for. Engines need a largest size."""
        return ENGINE_BATCH if self.batch_range and batch.maximum is None else batch


ENGINE_BATCH = Batch(1, 1, 32)
