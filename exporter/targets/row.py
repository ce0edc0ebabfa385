"""What a row of the table of targets is, and which requests it refuses before any work."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

from exporter.config import Batch, BuildOptions
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
    """What a target is asked to compile; each takes from it what it needs.

    Attributes:
        batch: sizes the engine must take; bounded where the target has ``batch_range``.
        precision: that the graph is typed in.
        options: of the builder; only such as the target's row honors.
        progress: told of the builder's work.
        here: build now or fail, where a target could leave it to another machine.
    """

    batch: Batch
    precision: Precision
    options: BuildOptions
    progress: Progress = silent
    here: bool = False


@dataclass(frozen=True)
class Compiled:
    """What a target made of a graph.

    Attributes:
        section: what the passport should record of it, under the target's name.
        engine: of an engine that TensorRT built: all that decides where it loads.
    """

    section: dict[str, Any]
    engine: EngineRecord | None = None

    def fields(self, target: str, **more: Any) -> dict[str, Any]:
        """Return the passport's fields; ``more`` goes into the target's own."""
        engine = {} if self.engine is None else {FIELD: self.engine.as_json()}
        return {target: {**self.section, **more}, **engine}


class TargetModule(Protocol):
    """What a target's file provides."""

    def compile(self, folder: Path, build: Build) -> Compiled:
        """Turn ``folder/model.onnx`` into what the runtime opens."""

    def open(self, artifact: Artifact, threads: int | None = None) -> Runner:
        """Return a runner; files are checked against the passport first."""

    def check_gpu(self, precision: str) -> None:
        """Refuse a precision that the GPU here lacks; only of targets that build on it."""


@dataclass(frozen=True)
class Target:
    """One row: where its code is, what it can do, what it needs.

    Attributes:
        name: what users call it; its file is named after it.
        summary: what it is, in a few words.
        precisions: what it can do.
        scheme: where its INT8 graphs have Q/DQ, unless the user says otherwise.
        needs: the module that its file imports.
        extras: of this package, that bring what it needs.
        distributions: what exporting to it takes: of each group, any one.
        finish_distributions: what ``exporter compile`` and running take, on a machine that need
            not export; empty where there is nothing to finish.
        finish_extras: that bring these.
        finish_besides: what no extra brings, in words.
        needs_gpu: whether building its engine also takes an NVIDIA GPU.
        batch_range: whether its engines are built for a range of batch sizes.
        cpu_needs: for a precision that not every CPU runs: of these instruction sets, any one.
        rest: the type of what INT8 leaves in floating point, unless user or scheme say otherwise.
        schemes: those whose INT8 graphs its parser takes.
        half_graph: whether its FP16 is one of the graph's types; else of stored weights alone,
            which the target sees to.
        honours: the fields of :class:`BuildOptions` that it takes.
        builds_for: GPUs, by a precision that not all of the builder's default ones have.
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
    needs_gpu: bool = False
    batch_range: bool = False
    cpu_needs: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    rest: FloatType = "fp32"
    schemes: tuple[SchemeName, ...] = ("tensorrt", "cpu")
    half_graph: bool = True
    honours: tuple[str, ...] = ()
    builds_for: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def install(self) -> str:
        """The line that installs what it needs."""
        return pip_line(self.extras)

    @property
    def finish_install(self) -> str | None:
        """The line that installs what finishing takes; None where there is nothing to finish."""
        if self.finish_extras is None:
            return None
        return "; ".join(filter(None, (pip_line(self.finish_extras), self.finish_besides)))

    def load(self) -> TargetModule:
        """Import the target's file.

        Raises:
            Missing: the library it needs is not installed.
        """
        if importlib.util.find_spec(self.needs) is None:
            raise Missing(f"target {self.name!r} needs {self.needs}", hint=self.install)
        module = importlib.import_module(f"exporter.targets.{self.name.replace('-', '_')}")
        return cast(TargetModule, module)

    def check_precision(self, precision: Precision) -> None:
        """Refuse what the target does not do.

        Raises:
            WrongUse: names what it does.
        """
        if precision not in self.precisions:
            raise WrongUse(
                f"target {self.name!r} does not do {precision}",
                hint=f"it does: {', '.join(self.precisions)}",
            )

    def check_scheme(self, scheme: SchemeName | None) -> None:
        """Refuse Q/DQ that the target's parser would refuse after all the work.

        Raises:
            WrongUse: names both sides.
        """
        if scheme is not None and scheme not in self.schemes:
            raise WrongUse(
                f"--scheme {scheme} and --to {self.name} contradict each other: "
                "TensorRT takes signed, symmetric INT8 only",
                hint=f"leave out --scheme: {self.name} has {self.scheme}",
            )

    def check_weight_bits(self, config: ExportConfig) -> None:
        """Refuse a width of weights that has no use, or that this CPU would choose wrong by.

        Raises:
            WrongUse: 7 bits for another scheme than the CPU's.
            Missing: something is to be chosen by running 8 bits, whose sums saturate here.
        """
        from exporter.machine.cpus import lacks_vnni
        from exporter.targets.quantized import scheme_of

        if not config.is_quantized:
            return
        scheme = scheme_of(config, self.scheme).name
        if config.int8.weight_bits == 7 and scheme != "cpu":
            raise WrongUse(
                f"weights of 7 bits are for CPUs without VNNI, and the scheme is {scheme}",
                hint="leave out --weight-bits, or give --scheme cpu where the target has it",
            )
        budget, bias = config.int8.max_drop is not None, "bias" in (config.int8.recovery or ())
        asked = "--max-drop" if budget else "--recovery bias"
        if config.int8.weight_bits == 8 and scheme == "cpu" and (budget or bias) and lacks_vnni():
            raise Missing(
                f"{asked} runs the integers here, and this CPU has no VNNI: sums would saturate",
                hint="give --weight-bits 7, or export on a CPU with VNNI",
            )

    def check_cpu(self, precision: str) -> None:
        """Refuse a precision that this machine's CPU would silently run as another.

        Raises:
            Missing: the CPU is not known to have what the precision takes.
        """
        from exporter.machine.cpus import cpu_has_any

        needs = self.cpu_needs.get(precision)
        if needs and not cpu_has_any(needs):
            raise Missing(
                f"this CPU has no {precision}: none of {', '.join(needs)} is among its "
                "instruction sets",
                hint=f"run this on a CPU that has one, or leave out --precision {precision}",
            )

    def check_gpu(self, precision: str) -> None:
        """Raise Missing where an engine would be built here, for a GPU that lacks a precision."""
        if self.needs_gpu and precision == "fp8":
            self.load().check_gpu(precision)

    def types_half(self, config: ExportConfig) -> bool:
        """Whether the graph gets FP16: all of it, or what INT8 or FP8 leaves.

        Raises:
            WrongUse: the target has no FP16, or inputs and outputs are to be FP16 in a graph
                that has none.
        """
        from exporter.targets.quantized import scheme_of

        scheme = scheme_of(config, self.scheme) if config.is_quantized else None
        rest: str = config.precision
        if scheme is not None:
            rest = config.int8.rest or scheme.rest or self.rest
        if rest == "fp16" and not self.half_graph:
            if scheme is not None or config.io == "fp16":
                raise WrongUse(f"target {self.name!r} has no FP16 but for its stored weights")
            return False
        if rest == "fp16":
            self.check_precision("fp16")
            if scheme is not None and scheme.name == "cpu":
                raise WrongUse(
                    "--scheme cpu and FP16 around it contradict each other",
                    hint="leave out --scheme, or add --rest fp32: that CPU has no FP16 kernels",
                )
        elif config.io == "fp16":
            raise WrongUse(
                f"--io fp16: target {self.name!r} leaves the rest of an "
                f"{config.precision.upper()} graph in FP32",
                hint="add --rest fp16",
            )
        return rest == "fp16"

    def check_batch(self, batch: Batch) -> None:
        """Refuse a range where an engine takes either one size or any.

        Raises:
            WrongUse: names what can be asked for instead.
        """
        if batch.maximum is not None and batch.fixed is None and not self.batch_range:
            raise WrongUse(
                f"target {self.name!r} does not keep to a range of batch sizes",
                hint="give one size, such as --batch 1, or leave --batch out to accept any",
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
            raise WrongUse("a DLA computes in FP16 and INT8, and --precision is fp8")
        if precision == "fp32":
            raise WrongUse("a DLA computes in FP16 and INT8, and --precision is fp32")
        if batch.fixed is None:
            raise WrongUse(
                f"a DLA takes one batch size, and --batch is "
                f"{batch.minimum}:{batch.usual}:{batch.maximum}",
                hint="such as --batch 1",
            )

    def bounded(self, batch: Batch) -> Batch:
        """Return the batch sizes to build for: an engine has a largest one."""
        return ENGINE_BATCH if self.batch_range and batch.maximum is None else batch


ENGINE_BATCH = Batch(1, 1, 32)
