"""NVIDIA's rules about where an engine loads, each with a verbatim quote and its source.

A check compares one engine with one machine and says what it compared. It returns None if its
rule does not apply. Missing information gives "unknown", never "holds".
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from exporter.engines.machines import Machine
from exporter.engines.record import EngineRecord
from exporter.machine.capabilities import has_precision

Outcome = Literal["holds", "fails", "unknown"]
Answer = tuple[Outcome, str] | None

_DOCS = "https://docs.nvidia.com/deeplearning/tensorrt"
_MATRIX_11 = f"{_DOCS}/11.4.1/getting-started/support-matrix.html"
_MATRIX_10 = f"{_DOCS}/latest/getting-started/support-matrix-10/10.14.1.html"
_DLA_11 = f"{_DOCS}/11.4.1/inference-library/work-with-dla.html"
_JETSON_11 = f"{_DOCS}/11.4.1/api/migration/tensorrt-10x-to-11x-jetson.html"
_RTX = "https://docs.nvidia.com/deeplearning/tensorrt-rtx/latest/inference-library"
_HARDWARE = "TensorRT 11, include/NvInfer.h, HardwareCompatibilityLevel"


@dataclass(frozen=True)
class Rule:
    """One rule.

    Attributes:
        name: its subject.
        quote: NVIDIA's text.
        source: the page or header that the quote is from.
        check: applies it to an engine, its precision and a machine.
        verified: whether the quote was checked at the source.
    """

    name: str
    quote: str
    source: str
    check: Callable[[EngineRecord, str, Machine], Answer]
    verified: bool = True


def _platform(engine: EngineRecord, _: str, machine: Machine) -> Answer:
    if engine.flavour == "tensorrt_rtx":  # portable between Windows and Linux
        built, here = engine.arch, machine.arch
    else:
        built, here = f"{engine.os} {engine.arch}", f"{machine.os} {machine.arch}"
    return "holds" if built == here else "fails", f"built for {built}; the machine is {here}"


def _gpu(_: EngineRecord, __: str, machine: Machine) -> Answer:
    if machine.gpu is None:
        return "fails", "no NVIDIA GPU was found"
    return None


def _same_version(engine: EngineRecord, _: str, machine: Machine) -> Answer:
    if engine.flavour != "tensorrt" or engine.version_compatible:
        return None
    return _compare_versions("TensorRT", engine, machine)


def _rtx_version(engine: EngineRecord, _: str, machine: Machine) -> Answer:
    if engine.flavour != "tensorrt_rtx":
        return None
    return _compare_versions("TensorRT-RTX", engine, machine)


def _compare_versions(library: str, engine: EngineRecord, machine: Machine) -> Answer:
    if machine.tensorrt is None:
        return "unknown", f"{library} must be {engine.tensorrt}; give yours with --tensorrt"
    built, here = _numbers(engine.tensorrt), _numbers(machine.tensorrt)
    known = min(len(built), len(here))
    detail = f"built with {library} {engine.tensorrt}; the machine has {_told(machine, 'tensorrt')}"
    if built[:known] != here[:known]:
        return "fails", detail
    if known < 3:
        return "unknown", f"{detail}: the patch release decides; give it with --tensorrt"
    return "holds", detail


def _newer_version(engine: EngineRecord, _: str, machine: Machine) -> Answer:
    if engine.flavour != "tensorrt" or not engine.version_compatible:
        return None
    if machine.tensorrt is None:
        return "unknown", f"built with TensorRT {engine.tensorrt}; give yours with --tensorrt"
    built, here = _numbers(engine.tensorrt), _numbers(machine.tensorrt)
    there = _told(machine, "tensorrt")
    detail = f"built with {engine.tensorrt}, version-compatible; the machine has {there}"
    if built[:2] < (8, 6) or here[:2] < (8, 6):
        return "fails", f"{detail}; both sides need 8.6 or newer"
    known = min(len(built), len(here))
    if (built[0], here[0]) in ((8, 10), (10, 11)):
        return "holds", detail
    if built[0] != here[0] or here[:known] < built[:known]:
        return "fails", detail
    return "holds" if here[:known] > built[:known] or known >= 3 else "unknown", detail


def _same_gpu(engine: EngineRecord, _: str, machine: Machine) -> Answer:
    if engine.flavour != "tensorrt" or engine.hardware_compatibility != "none":
        return None
    answer = _compare_capability(engine, machine)
    if answer is None or answer[0] != "holds" or not engine.gpu or not machine.gpu:
        return answer
    if engine.gpu in machine.gpu or machine.gpu in engine.gpu:
        return answer
    return "holds", f"{answer[1]}; tuned on {engine.gpu}, so it may be slower here"


def _same_capability(engine: EngineRecord, _: str, machine: Machine) -> Answer:
    level = engine.hardware_compatibility
    if engine.flavour != "tensorrt" or level != "same_compute_capability":
        return None
    return _compare_capability(engine, machine)


def _compare_capability(engine: EngineRecord, machine: Machine) -> Answer:
    here = machine.compute_capability
    if machine.gpu is None:
        return None
    if here is None:
        return "unknown", f"the compute capability of {machine.gpu} is unknown"
    detail = (
        f"built for compute capability {' and '.join(engine.compute_capabilities)}, "
        f"{machine.gpu} has {here}"
    )
    return "holds" if here in engine.compute_capabilities else "fails", detail


def _ampere_plus(engine: EngineRecord, _: str, machine: Machine) -> Answer:
    if engine.flavour != "tensorrt" or engine.hardware_compatibility != "ampere+":
        return None
    here = machine.compute_capability
    if here is None:
        return None if machine.gpu is None else ("unknown", "its compute capability is unknown")
    detail = f"{machine.gpu} has compute capability {here}"
    return "holds" if _numbers(here) >= (8, 0) else "fails", f"{detail}; Ampere begins at 8.0"


def _ampere_plus_jetson(engine: EngineRecord, _: str, machine: Machine) -> Answer:
    if engine.flavour != "tensorrt" or engine.hardware_compatibility != "ampere+":
        return None
    if not machine.is_jetson:
        return None
    return "fails", f"{machine.gpu} runs JetPack"


def _rtx_capability(engine: EngineRecord, _: str, machine: Machine) -> Answer:
    if engine.flavour != "tensorrt_rtx" or engine.hardware_compatibility != "none":
        return None
    return _compare_capability(engine, machine)


def _rtx_default(engine: EngineRecord, _: str, machine: Machine) -> Answer:
    if engine.flavour != "tensorrt_rtx" or engine.hardware_compatibility != "ampere+":
        return None
    newest, here = max(engine.compute_capabilities, key=_numbers), machine.compute_capability
    if here is not None and _numbers(here) > _numbers(newest):
        return "holds", f"built for {newest} and later, {machine.gpu} has {here}"
    return _compare_capability(engine, machine)


# 5.3 is Jetson Nano, 6.2 is TX2, 6.0 is P100. 6.1 and everything from 7.0 on has INT8.
_NO_INT8 = ("5.2", "5.3", "6.0", "6.2")


def _int8(_: EngineRecord, precision: str, machine: Machine) -> Answer:
    here = machine.compute_capability
    if precision != "int8" or here is None:
        return None
    detail = f"{machine.gpu}, compute capability {here}"
    return ("fails", f"{detail}, has no INT8") if here in _NO_INT8 else ("holds", detail)


def _fp8(_: EngineRecord, precision: str, machine: Machine) -> Answer:
    here = machine.compute_capability
    if precision != "fp8" or here is None:
        return None
    detail = f"{machine.gpu}, compute capability {here}"
    return ("holds", detail) if has_precision(here, "fp8") else ("fails", f"{detail}, has no FP8")


def _dla(engine: EngineRecord, _: str, machine: Machine) -> Answer:
    if engine.dla_core is None:
        return None
    if machine.dla_cores is None:
        return (
            "unknown",
            f"whether {machine.gpu} has DLA core {engine.dla_core} depends on the module",
        )
    there = _told(machine, "dla_cores")
    detail = f"built for DLA core {engine.dla_core}; number of cores on the machine: {there}"
    return "holds" if engine.dla_core < machine.dla_cores else "fails", detail


def _dla_version(engine: EngineRecord, _: str, machine: Machine) -> Answer:
    if engine.dla_core is None or machine.tensorrt is None:
        return None
    here = _numbers(machine.tensorrt)
    without = (10, 8) <= here[:2] < (11, 4) or here[:3] == (11, 4, 0)
    there = _told(machine, "tensorrt")
    return "fails" if without else "holds", f"the machine has TensorRT {there}"


def _jetson_11(engine: EngineRecord, _: str, machine: Machine) -> Answer:
    if engine.flavour != "tensorrt" or not machine.is_jetson or _numbers(engine.tensorrt)[0] < 11:
        return None
    if machine.jetpack is None:
        if machine.tensorrt is not None and _numbers(machine.tensorrt)[0] >= 11:
            return None  # TensorRT 11 is already installed, so JetPack is new enough
        return "unknown", "its JetPack version is unknown"
    modern = _numbers(machine.jetpack) >= (7, 2, 2)
    detail = f"built with TensorRT {engine.tensorrt}; the machine has JetPack {machine.jetpack}"
    return "holds" if modern else "fails", detail


# CUDA's major version: its oldest driver. Not for Jetsons: JetPack has its own driver.
_OLDEST_DRIVERS = {11: 450, 12: 525, 13: 580}


def _driver(engine: EngineRecord, _: str, machine: Machine) -> Answer:
    if engine.cuda is None or machine.is_jetson or machine.gpu is None:
        return None
    oldest = _OLDEST_DRIVERS.get(_numbers(engine.cuda)[0])
    if oldest is None:
        return "unknown", f"exporter does not know which driver CUDA {engine.cuda} needs"
    needs = f"built with CUDA {engine.cuda}, which needs driver {oldest} or newer"
    if machine.driver is None:
        return "unknown", f"{needs}; give yours with --driver"
    recent = _numbers(machine.driver)[0] >= oldest
    return "holds" if recent else "fails", f"{needs}; the machine has {machine.driver}"


def _told(machine: Machine, field: str) -> str:
    """Format a cell of the table, marked "(unverified)" if it has no source."""
    mark = " (unverified)" if field in machine.unverified else ""
    return f"{getattr(machine, field)}{mark}"


def _numbers(version: str) -> tuple[int, ...]:
    """Parse "10.3.0.30" into (10, 3, 0, 30). Drop any text after the numbers."""
    found = re.match(r"\d+(\.\d+)*", version)
    return tuple(int(part) for part in found[0].split(".")) if found else (0,)


RULES: tuple[Rule, ...] = (
    Rule(
        "platform",
        "Serialized engines are not portable across platforms, such as Linux and Windows.",
        _MATRIX_11,
        _platform,
    ),
    Rule(
        "gpu",
        "TensorRT works across all NVIDIA GPUs using the CUDA platform.",
        "https://developer.nvidia.com/tensorrt/download/11x",
        _gpu,
    ),
    Rule(
        "TensorRT version",
        "By default, TensorRT engines are compatible only with the version of TensorRT used to "
        "build them.",
        f"{_DOCS}/11.1.0/inference-library/engine-compatibility.html",
        _same_version,
    ),
    Rule(
        "version compatibility",
        "TensorRT 10 version-compatible engines can run with a TensorRT 11 runtime, and TensorRT 8 "
        "version-compatible engines can run with a TensorRT 10 runtime. No other combination "
        "across major versions is supported.",
        _MATRIX_11,
        _newer_version,
    ),
    Rule(
        "TensorRT-RTX version",
        "TensorRT-RTX engines are not compatible between different releases of TensorRT-RTX.",
        f"{_RTX}/engine-compatibility.html",
        _rtx_version,
    ),
    Rule(
        "compute capability",
        "Engines built with hardware compatibility mode can run on multiple GPU architectures, "
        "depending on the hardware compatibility level used. Without this mode, engines are not "
        "portable across different GPU architectures.",
        _MATRIX_10,
        _same_gpu,
    ),
    Rule(
        "same compute capability",
        "Require that the engine is compatible with GPUs that have the same Compute Capability "
        "version as the one it was built on.",
        _HARDWARE,
        _same_capability,
    ),
    Rule(
        "Ampere and newer",
        "Require that the engine is compatible with Ampere and newer GPUs.",
        _HARDWARE,
        _ampere_plus,
    ),
    Rule(
        "Ampere and newer, Jetson",
        "Hardware compatibility is not supported on NVIDIA DRIVE OS or JetPack.",
        "TensorRT Developer Guide, Hardware Compatibility (read in a translation)",
        _ampere_plus_jetson,
        verified=False,
    ),
    Rule(
        "TensorRT-RTX compute capability",
        "Target compute capability not supported on device: rebuild with appropriate "
        "IBuilderConfig compute capabilities.",
        f"{_RTX}/engine-compatibility.html",
        _rtx_capability,
    ),
    Rule(
        "TensorRT-RTX default",
        "By default, an engine built by TensorRT-RTX can be run on GPU devices with compute "
        "capability 8.0, 8.6, 8.9, 12.0, and later.",
        f"{_RTX}/cpu-engines.html",
        _rtx_default,
    ),
    Rule(
        "INT8",
        "The following table lists NVIDIA hardware and which precision modes that each hardware "
        "supports.",
        f"{_DOCS}/archives/tensorrt-825/support-matrix/index.html (rows below 6.1 not read)",
        _int8,
        verified=False,
    ),
    Rule(
        "FP8",
        "FP8 is only supported for matrix multiplications (GEMM) on Ada and later architectures "
        "(compute capability 8.9 or later).",
        f"{_RTX}/work-quantized-types.html",
        _fp8,
    ),
    Rule(
        "DLA",
        "NVIDIA's Orin SoCs feature up to two second-generation DLAs while Xavier SoCs feature up "
        "to two first-generation DLAs.",
        "https://github.com/NVIDIA/Deep-Learning-Accelerator-SW",
        _dla,
    ),
    Rule(
        "DLA, TensorRT version",
        "TensorRT 10.7 was the last 10.x release that supported DLA. DLA was unavailable in "
        "TensorRT 11.0 through 11.3. TensorRT 11.4.0 supported DLA only on Windows on ARM.",
        _DLA_11,
        _dla_version,
    ),
    Rule(
        "TensorRT 11 on Jetson",
        "TensorRT 11.4.1 supports NVIDIA JetPack 7.2.2 or later on Jetson AGX Orin and Jetson "
        "Thor. Jetson Orin on NVIDIA JetPack 6.x is not supported.",
        _JETSON_11,
        _jetson_11,
    ),
    Rule(
        "driver",
        "CUDA 13.x: >= 580; CUDA 12.x: >= 525; CUDA 11.x: >= 450.",
        "https://docs.nvidia.com/deploy/cuda-compatibility/minor-version-compatibility.html",
        _driver,
    ),
)
