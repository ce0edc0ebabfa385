"""OpenVINO on the CPU: its own IR, always in exactly the requested precision."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import numpy as np

from exporter.artifact.folder import MODEL, Artifact
from exporter.errors import ConversionError, ExporterError, Missing, WrongUse
from exporter.machine.cpus import cpu_model, refuse_saturation
from exporter.network.runner import Feeds, usable_cores
from exporter.targets import Build, Compiled
from exporter.targets._openvino_layers import executed_layers, summary, table

IR = "model.xml"
WEIGHTS = "model.bin"

# What a precision means here: how the IR stores weights, and the type in which OpenVINO computes
# layers without Q/DQ. By default, OpenVINO computes in bfloat16 if the CPU has it.
_FP16_WEIGHTS = {"fp32": False, "fp16": True, "bf16": False, "int8": False}
_HINTS = {"fp32": "f32", "fp16": "f32", "bf16": "bf16", "int8": "f32"}


def load_openvino() -> Any:
    """Import OpenVINO without its telemetry.

    Its package reports every import to an outside service, and stores a client id in the home
    folder. If ``openvino_telemetry`` can't be imported, it uses its own stub instead. A program
    that imported OpenVINO before us has already made this choice itself.
    """
    name = "openvino_telemetry"
    if "openvino" not in sys.modules:
        before = sys.modules.get(name)
        sys.modules[name] = None  # type: ignore[assignment]  # how Python blocks an import
        try:
            import openvino
        finally:
            del sys.modules[name]
            if before is not None:
                sys.modules[name] = before
    import openvino

    return openvino


class OpenVinoRunner:
    """One compiled model with one stream, which is fastest for a single batch.

    Inputs and outputs have the names in the passport's ``graph``, as OpenVINO may have several
    names for a tensor. If ``threads`` is None, it uses all cores that this process may use.
    """

    def __init__(
        self,
        ir: tuple[Path, Path],
        precision: str,
        graph: dict[str, Any],
        threads: int | None = None,
        *,
        profiled: bool = False,
    ) -> None:
        self._ir = ir
        self._precision = precision
        self._inputs = {port["name"]: port["shape"] for port in graph["inputs"]}
        self._outputs = [port["name"] for port in graph["outputs"]]
        self._threads = threads
        self._profiled = profiled

    def __enter__(self) -> OpenVinoRunner:
        """Compile the IR for this CPU.

        Raises:
            ExporterError: OpenVINO refuses the IR.
            Missing: OpenVINO would compute in another precision here.
            WrongUse: OpenVINO would not use the requested number of threads.
        """
        self._compiled = _compiled(
            *self._ir, _HINTS[self._precision], self._threads, profiled=self._profiled
        )
        self._request = self._compiled.create_infer_request()
        return self

    def __exit__(self, *_: object) -> None:
        """Free the model and its threads."""
        del self._request, self._compiled

    def infer(self, feeds: Feeds) -> Feeds:
        """Run one batch.

        Raises:
            WrongUse: the inputs' names, types or shapes are wrong. OpenVINO itself would reuse
                the previous batch, convert the values, or read past the array.
        """
        if feeds.keys() != self._inputs.keys():
            raise WrongUse(
                f"the model's inputs are {', '.join(self._inputs)}, not {', '.join(feeds)}"
            )
        for name, array in feeds.items():
            wanted = np.dtype(self._compiled.input(name).element_type.to_dtype())
            if array.dtype != wanted:
                raise WrongUse(f"input {name!r} takes {wanted}, not {array.dtype}")
            if not _fits(array.shape, self._inputs[name]):
                raise WrongUse(f"input {name!r} takes {self._inputs[name]}, not {array.shape}")
        results = self._request.infer(feeds, share_outputs=False)
        return {name: results[self._compiled.output(name)] for name in self._outputs}

    def mean_ms_by_node(self) -> dict[str, tuple[str, float]]:
        """Return each executed node's op and its mean milliseconds over all calls so far.

        The runner must have been created with ``profiled``.
        """
        return {
            node.node_name: (node.node_type, node.real_time.total_seconds() * 1000)
            for node in self._request.profiling_info
            if node.status == node.Status.EXECUTED
        }


def compile(folder: Path, build: Build) -> Compiled:
    """Write the IR, compile it, and record the precision in which each layer runs.

    Raises:
        ConversionError: weights don't fit into FP16, or a layer runs in another precision.
        ExporterError: OpenVINO refuses the graph, or can't write.
    """
    ov = load_openvino()
    half = _FP16_WEIGHTS[build.precision]
    try:
        model = ov.Core().read_model(folder / MODEL)
        if half:
            _check_half(model)
        ov.save_model(model, folder / IR, compress_to_fp16=half)
    except RuntimeError as error:  # OpenVINO uses this type for every error
        ops = sorted(set(re.findall(r"^-- (\w+?)-\d+ with", str(error), re.MULTILINE)))
        what = ", ".join(ops) if ops else str(error)
        raise ExporterError(
            f"OpenVINO can't convert the graph: {what}",
            hint="use --to ort. A GRU, a SimpleRNN or a mask becomes a Loop; an LSTM does not",
        ) from error
    hint = _HINTS[build.precision]
    compiled = _compiled(folder / IR, folder / WEIGHTS, hint, threads=None)
    layers = executed_layers(compiled.get_runtime_model())
    if build.precision != "bf16" and any(
        "bf16" in (layer.precision, layer.output) for layer in layers
    ):
        raise ConversionError("OpenVINO computes in bfloat16, which you didn't request")
    said = [*(["weights stored as FP16"] if half else []), *summary(layers)]
    section = {
        "version": ov.get_version(),
        "inference_precision": hint,
        "executed": {"cpu": cpu_model(), "summary": said, "layers": table(layers)},
    }
    return Compiled(section)


def open(artifact: Artifact, threads: int | None = None) -> OpenVinoRunner:
    """Open the IR, if the hashes of both its files match the passport.

    Raises:
        Missing: its 8-bit weights need VNNI, which this CPU lacks.
    """
    refuse_saturation(artifact.path, artifact.quantization)
    ir = (artifact.file(IR), artifact.file(WEIGHTS))
    passport = artifact.passport
    return OpenVinoRunner(ir, passport["precision"], passport["graph"], threads)


def _compiled(
    model: Path,
    weights: Path,
    hint: str,
    threads: int | None,
    *,
    profiled: bool = False,
) -> Any:
    """Compile for this CPU with explicit options, and refuse if OpenVINO changes one."""
    core = load_openvino().Core()
    options = {
        "INFERENCE_PRECISION_HINT": hint,
        "INFERENCE_NUM_THREADS": threads or usable_cores(),
        "NUM_STREAMS": 1,
        "PERFORMANCE_HINT": "LATENCY",
        "ENABLE_HYPER_THREADING": True,  # otherwise threads are limited to the physical cores
        "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0,  # never quantize activations without a request
        "PERF_COUNT": profiled,
    }
    try:
        compiled = core.compile_model(core.read_model(model, weights), "CPU", options)
    except RuntimeError as error:
        raise ExporterError(f"OpenVINO refuses the graph: {error}") from error
    got = compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
    if got != hint:
        raise Missing(f"OpenVINO computes in {got} on this CPU, not in {hint}")
    count = compiled.get_property("INFERENCE_NUM_THREADS")
    if threads is not None and count != threads:
        raise WrongUse(f"OpenVINO uses {count} threads here, not {threads}")
    return compiled


def _fits(shape: tuple[int, ...], declared: list[int | str]) -> bool:
    """Return whether an array's shape fits a port's, whose open dimensions are names."""
    return len(shape) == len(declared) and all(
        isinstance(wanted, str) or size == wanted
        for size, wanted in zip(shape, declared, strict=True)
    )


def _check_half(model: Any) -> None:
    """Refuse weights beyond FP16's range, as OpenVINO would clip them to its largest value."""
    largest = float(np.finfo(np.float16).max)
    for node in model.get_ordered_ops():
        if node.get_type_name() != "Constant" or node.get_element_type().get_type_name() != "f32":
            continue
        worst = float(np.abs(node.data).max(initial=0.0))
        if worst > largest:
            raise ConversionError(
                f"{node.get_friendly_name()} contains {worst:.4g}, but FP16's largest value is "
                f"{largest:.0f}",
                hint="export it with --precision fp32",
            )
