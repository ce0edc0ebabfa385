"""onnxruntime's GPU execution providers as rows of one table, and checks whether they start here.

If a provider's libraries don't load, onnxruntime writes only a log line and runs the graph on the
CPU. So we check for the requested provider before we create a session, and again in the session.
Options: https://onnxruntime.ai/docs/execution-providers, and for TensorRT-RTX
https://nvidia.github.io/TensorRT-RTX-EP-ABI/_generated/provider-options.html.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import importlib.metadata
import importlib.util
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnxruntime as ort

from exporter.errors import Missing
from exporter.machine.install import pip_line

# The first release that can list where its nodes run: Session_GetEpGraphAssignmentInfo.
FIRST_VERSION = "1.24"


@dataclass(frozen=True)
class Provider:
    """One execution provider.

    Attributes:
        name: onnxruntime's name for it.
        title: its name in messages.
        extras: extras of this package that install it.
        library: the file in onnxruntime's package that contains it; None for a plugin.
        plugin: the module that adds it to onnxruntime; None if it is built in.
        cuda_graph: the option that replays a batch's kernels as one CUDA graph.
        profiles: prefix of the options for a range of shapes; None if it needs none.
    """

    name: str
    title: str
    extras: str
    library: str | None = None
    plugin: str | None = None
    cuda_graph: str = "enable_cuda_graph"
    profiles: str | None = None

    @property
    def on_gpu(self) -> bool:
        """Whether it runs on an NVIDIA GPU and so needs a driver."""
        return self.library is not None or self.plugin is not None


CUDA = Provider(
    "CUDAExecutionProvider",
    "onnxruntime's CUDA provider",
    "ort-gpu",
    library="libonnxruntime_providers_cuda.so",
)
TENSORRT = Provider(
    "TensorrtExecutionProvider",
    "onnxruntime's TensorRT provider",
    "ort-gpu",
    library="libonnxruntime_providers_tensorrt.so",
    cuda_graph="trt_cuda_graph_enable",
    profiles="trt_profile",
)
TENSORRT_RTX = Provider(
    "NvTensorRTRTXExecutionProvider",
    "onnxruntime's TensorRT-RTX provider",
    "ort-rtx",
    plugin="onnxruntime_ep_nv_tensorrt_rtx",
    profiles="nv_profile",
)


def require(provider: Provider) -> None:
    """Make sure that onnxruntime has a provider, before a session is created.

    Raises:
        Missing: onnxruntime doesn't have it or is too old to list where nodes run, or the
            driver is missing or too old.
    """
    if not hasattr(ort.InferenceSession, "get_provider_graph_assignment_info"):
        raise Missing(
            f"onnxruntime {ort.__version__} can't tell where its nodes run, so a fallback to the "
            f"CPU would go unnoticed; you need {FIRST_VERSION} or later",
            hint=f"{pip_line(provider.extras)}, on Python 3.11 or later",
        )
    if provider.plugin is not None:
        _register(provider, provider.plugin)
    elif provider.name not in ort.get_available_providers():
        raise Missing(f"{provider.title} is not installed", hint=_install(provider))
    if provider.on_gpu and (problem := driver_problem()) is not None:
        raise Missing(f"{provider.title} can't start here: {problem}", hint="see nvidia-smi")


def add(provider: Provider, settings: Any, options: dict[str, str]) -> list[Any] | None:
    """Request a provider in a session's options.

    Args:
        provider: a provider that :func:`require` found.
        settings: onnxruntime's ``SessionOptions``.
        options: the provider's options.

    Returns:
        The ``providers`` argument for ``InferenceSession``; None for a plugin, as its devices go
        into ``settings``.

    Raises:
        Missing: a plugin finds no device.
    """
    if provider.plugin is None:
        _load_cuda_libraries()
        return [(provider.name, options)]
    devices = [each for each in ort.get_ep_devices() if each.ep_name == provider.name]
    if not devices:
        raise Missing(
            f"{provider.title} finds no GPU here that it can run on",
            hint="it needs an RTX GPU, Ampere or later; check with nvidia-smi",
        )
    settings.add_provider_for_devices(devices[:1], options)
    return None


def did_not_start(provider: Provider) -> Missing:
    """Return the error for a requested provider that a session lacks."""
    reason = _library_problem(provider) or "onnxruntime gives no reason"
    return Missing(f"{provider.title} does not start here: {reason}", hint=_install(provider))


def driver_problem() -> str | None:
    """Describe the problem with the NVIDIA driver. None if it answers and is new enough."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return "there is no NVIDIA driver (libcuda.so.1)"
    status = driver.cuInit(0)
    if status:
        return f"the NVIDIA driver does not start (cuInit returns {status})"
    version = ctypes.c_int()
    driver.cuDriverGetVersion(ctypes.byref(version))
    return version_problem(version.value, str(getattr(ort, "cuda_version", None) or ""))


def version_problem(driver: int, built_for: str) -> str | None:
    """Compare the CUDA that a driver supports with the one that onnxruntime was built for.

    Args:
        driver: the value of ``cuDriverGetVersion``, such as 12080.
        built_for: a version such as "13.0"; empty if onnxruntime doesn't say.
    """
    needs = built_for.partition(".")[0]
    if needs.isdecimal() and driver // 1000 < int(needs):
        return (
            f"the NVIDIA driver is too old: it supports CUDA "
            f"{driver // 1000}.{driver % 1000 // 10}, and this onnxruntime was built for CUDA "
            f"{built_for}"
        )
    return None


def versions(provider: Provider) -> dict[str, str]:
    """Return the versions for which a cache of the provider is valid."""
    found = {"onnxruntime": str(ort.__version__)}
    if provider.plugin is not None:
        found[provider.plugin] = str(importlib.import_module(provider.plugin).__version__)
    return found


def _register(provider: Provider, plugin: str) -> None:
    if importlib.util.find_spec(plugin) is None:
        raise Missing(f"{provider.title} is not installed", hint=pip_line(provider.extras))
    if any(each.ep_name == provider.name for each in ort.get_ep_devices()):
        return  # registered by an earlier call
    module = importlib.import_module(plugin)
    try:
        ort.register_execution_provider_library(provider.name, module.get_library_path())
    except Exception as error:  # onnxruntime's exceptions have no common public base
        if "already" in str(error):
            return
        reason = driver_problem() or first_line(error)
        raise Missing(f"{provider.title} can't start here: {reason}") from error


def _install(provider: Provider) -> str:
    """Return the command that installs a provider, after removing packages that hide it."""
    line = pip_line(provider.extras)
    both = [name for name in ("onnxruntime", "onnxruntime-gpu") if _is_installed(name)]
    if "onnxruntime" in both:  # both packages install into the same folder, and the last one wins
        return f"pip uninstall {' '.join(both)}; {line}"
    return line


def _is_installed(distribution: str) -> bool:
    try:
        importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def _library_problem(provider: Provider) -> str | None:
    """Load a provider's library as onnxruntime does, and return the loader's error, if any."""
    if provider.library is None:
        return None
    folder = Path(ort.__file__).parent / "capi"
    try:
        ctypes.CDLL(str(folder / "libonnxruntime_providers_shared.so"))
        ctypes.CDLL(str(folder / provider.library))
    except OSError as error:
        return first_line(error)
    return None


def _load_cuda_libraries() -> None:
    """Load CUDA and cuDNN from their Python packages, if installed."""
    if hasattr(ort, "preload_dlls"):
        with contextlib.redirect_stdout(io.StringIO()):  # it prints which libraries are missing
            ort.preload_dlls()


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
