"""The quantizers that we compare: ours, onnxruntime's and NNCF's, with their settings as data.

All get the same folded FP32 graph and the same calibration images. If a tool has several possible
settings, each is tried on held-out training images; see ``int8_cells``.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from exporter.errors import Missing
from exporter.machine.install import pip_line

Images = npt.NDArray[np.float32]
Settings = dict[str, Any]

OURS = ("ours-mse", "ours-entropy")
RIVALS = ("quantize_static", "nncf")
TOOLS = (*OURS, *RIVALS)
_BATCH = 32


def settings_to_try(tool: str, scheme: str, *, vnni: bool) -> list[Settings]:
    """Return the settings of a tool that make sense for a scheme.

    Args:
        tool: one of :data:`TOOLS`.
        scheme: ``cpu`` or ``tensorrt``.
        vnni: whether U8 * S8 products are summed without saturation here.
    """
    if tool in OURS:
        return [{"calibrator": tool.removeprefix("ours-")}]
    if tool == "quantize_static":
        return [
            {"calibrate_method": method, "per_channel": per_channel, **_STATIC[scheme]}
            | ({"reduce_range": not vnni} if scheme == "cpu" else {})
            for method in ("MinMax", "Entropy", "Percentile")
            for per_channel in (True, False)
        ]
    if scheme == "tensorrt":
        return [{"preset": "PERFORMANCE", "signed": True, "overflow_fix": "DISABLE"}]
    # NNCF's advice without VNNI: the fix in the first layer, then in all if that isn't enough.
    fixes = ("DISABLE",) if vnni else ("FIRST_LAYER", "ENABLE")
    return [
        {"preset": preset, "signed": None, "overflow_fix": fix}
        for preset in ("MIXED", "PERFORMANCE")
        for fix in fixes
    ]


def fastest_settings(tool: str, *, vnni: bool) -> Settings:
    """Return the settings of a rival that are fastest on a CPU without overflowing its sums.

    One scale per channel costs integer kernels no time. ``PERFORMANCE`` is NNCF's symmetric
    preset. Without VNNI, 7-bit weights in every layer are as fast as 8-bit ones and don't
    saturate.
    """
    favored: dict[str, Settings] = {
        "quantize_static": {"per_channel": True},
        "nncf": {"preset": "PERFORMANCE", "overflow_fix": "DISABLE" if vnni else "ENABLE"},
    }
    return next(
        settings
        for settings in settings_to_try(tool, "cpu", vnni=vnni)
        if settings.items() >= favored[tool].items()
    )


# By default it quantizes the logits too, which saves no time. If one image's logits are thirty
# times another's, the other image loses its label (9 points of top-1 on the shipped ResNeXt).
_FLOAT_LOGITS = {"OpTypesToExcludeOutputQuantization": ["Gemm", "MatMul"]}

# TensorRT needs symmetric ranges, and float biases: its parser takes no INT32 DequantizeLinear.
_STATIC: dict[str, Settings] = {
    "cpu": {"activation_type": "QUInt8", "extra_options": _FLOAT_LOGITS},
    "tensorrt": {
        "activation_type": "QInt8",
        "extra_options": {
            "ActivationSymmetric": True,
            "WeightSymmetric": True,
            "QuantizeBias": False,
            **_FLOAT_LOGITS,
        },
    },
}


def quantize(tool: str, settings: Settings, folded: Path, images: Images, output: Path) -> None:
    """Quantize a graph with one of the rivals, and write it.

    Args:
        tool: ``quantize_static`` or ``nncf``.
        settings: one of :func:`settings_to_try`.
        folded: the FP32 graph.
        images: (images, ...) calibration inputs in the graph's form.
        output: the file to write.

    Raises:
        Missing: the tool is not installed.
    """
    {"quantize_static": _quantize_static, "nncf": _nncf}[tool](settings, folded, images, output)


class _Reader:
    """Hands batches to onnxruntime, with its interface."""

    def __init__(self, name: str, images: Images) -> None:
        self._batches: Iterator[Images] = iter(np.split(images, range(_BATCH, len(images), _BATCH)))
        self._name = name

    def get_next(self) -> dict[str, Images] | None:
        batch = next(self._batches, None)
        return None if batch is None else {self._name: batch}


def _quantize_static(settings: Settings, folded: Path, images: Images, output: Path) -> None:
    from onnxruntime import quantization as ortq
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(_Reader, ortq.CalibrationDataReader):  # type: ignore[misc]
        pass

    with tempfile.TemporaryDirectory(prefix="quantize-static-") as folder:
        prepared = Path(folder, "prepared.onnx")
        quant_pre_process(folded, prepared)
        name = onnx.load(prepared, load_external_data=False).graph.input[0].name
        ortq.quantize_static(
            prepared,
            output,
            Reader(name, images),
            quant_format=ortq.QuantFormat.QDQ,
            per_channel=settings["per_channel"],
            reduce_range=settings.get("reduce_range", False),
            activation_type=ortq.QuantType[settings["activation_type"]],
            weight_type=ortq.QuantType.QInt8,
            calibrate_method=ortq.CalibrationMethod[settings["calibrate_method"]],
            extra_options=settings["extra_options"],
        )


def _nncf(settings: Settings, folded: Path, images: Images, output: Path) -> None:
    """Quantize a graph, and write it as OpenVINO IR or ONNX, depending on the output's suffix."""
    os.environ.setdefault("NNCF_CI", "1")  # keeps NNCF from sending usage data
    native = output.suffix == ".xml"
    if native:
        from exporter.targets.openvino import load_openvino

        ov = load_openvino()  # first, so that importing it sends no usage data either
    try:
        import nncf
    except ImportError as error:
        raise Missing("NNCF is not installed", hint=pip_line("compare")) from error
    from nncf.quantization.advanced_parameters import AdvancedQuantizationParameters, OverflowFix

    graph = onnx.load(folded)
    advanced = AdvancedQuantizationParameters(overflow_fix=OverflowFix[settings["overflow_fix"]])
    if settings["signed"]:
        _force_signed()
    quantized = nncf.quantize(
        ov.Core().read_model(folded) if native else graph,
        nncf.Dataset([{graph.graph.input[0].name: image[None]} for image in images]),
        preset=nncf.QuantizationPreset[settings["preset"]],
        target_device=nncf.TargetDevice.CPU,
        subset_size=len(images),
        fast_bias_correction=True,
        advanced_parameters=advanced,
    )
    if native:
        ov.save_model(quantized, output, compress_to_fp16=False)
    else:
        onnx.save(quantized, output)


def _force_signed() -> None:
    """Make NNCF's activations signed, in this process, because TensorRT takes no others.

    NNCF rejects its own public parameter for this (``signedness_to_force``) on every target
    device, because no device's table sets it. So we set it in the tables.
    """
    from nncf.common.hardware import qspaces

    for space in (qspaces.q8_a, qspaces.q8_a_sym, qspaces.q8_a_ch):
        object.__setattr__(space, "signedness_to_force", True)
