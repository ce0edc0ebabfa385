"""Move weights to the integers' grid by what that does to the layer's output."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from calibration.gram import Window
from calibration.rounding import round_rows
from exporter.passes import Kept, PassReport
from exporter.passes._quantize import weight_scales
from exporter.passes.constants import Array, label, set_constant_input, used_once
from exporter.passes.linear import Linear, read_parameters
from exporter.passes.placement import place, weight_axis
from exporter.passes.schemes import Scheme


def layers_to_measure(model: ir.Model, scheme: Scheme) -> dict[str, tuple[str, Window]]:
    """What each layer that `RoundWeights` can round reads: its tensor and how, by node name."""
    return {
        label(linear.node): (str(linear.node.inputs[0] and linear.node.inputs[0].name), window)
        for linear in place(model, scheme).linears
        if isinstance(window := _window(linear), Window)
    }


class RoundWeights(ir.passes.InPlacePass):
    """Make each weight one of the two quantized numbers beside it, in float.

    Which of the two, `calibration.rounding` decides for a whole output channel, by the second
    moments of the layer's input. The scale is InsertQdq's own, of the channel's amax; the
    largest weight is on the grid already, so the scale stays, and InsertQdq, which comes after,
    finds integers that rounding can't change.

    It must not fire on layers that InsertQdq would leave in float, whose weight another node
    uses too, on ConvTranspose, whose output is no sum over windows of its input, or on a Conv
    that pads by `auto_pad`. Each is in `report.kept`.

    Attributes:
        report: of the latest call; `applied` names the linear nodes.
        nearest_error: by node, mean squared error of the output with nearest rounding, summed
            over channels, in units of the squared scales.
        error: the same of what was chosen.
    """

    def __init__(self, scheme: Scheme, moments: Mapping[str, Array]) -> None:
        """Take what was measured.

        Args:
            scheme: a row of `exporter.passes.schemes.SCHEMES`.
            moments: second moments (groups, n, n) of `layers_to_measure`, or of some of them: the
                others are left alone, and not reported.
        """
        self.report = PassReport("round_weights")
        self.nearest_error: dict[str, float] = {}
        self.error: dict[str, float] = {}
        self._scheme, self._moments = scheme, moments

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Round layer by layer; each needs only its own moments."""
        self.report = PassReport("round_weights")
        for linear in place(model, self._scheme).linears:
            window, name = _window(linear), label(linear.node)
            if isinstance(window, str):
                self.report.kept.append(Kept(name, window))
            elif name in self._moments:
                self._round(linear, self._moments[name])
                self.report.applied.append(name)
        return ir.passes.PassResult(model, modified=bool(self.report.applied))

    def _round(self, linear: Linear, moments: Array) -> None:
        parameters, axis = read_parameters(linear), weight_axis(linear.node)
        assert not isinstance(parameters, str), "placement took it"
        weight, number = parameters.weight, self._scheme.weights
        scales = weight_scales(weight, axis, number).astype(np.float64)
        rows = np.moveaxis(weight, axis, 0).astype(np.float64)
        scaled = (rows.reshape(len(scales), -1) / scales[:, None]).reshape(
            len(moments), -1, moments.shape[-1]
        )
        found = [
            round_rows(part, matrix, number) for part, matrix in zip(scaled, moments, strict=True)
        ]
        integers = np.concatenate([each.integers for each in found])
        on_grid = (integers * scales[:, None]).reshape(rows.shape)
        name = label(linear.node)
        array = np.moveaxis(on_grid, 0, axis).astype(weight.dtype)
        set_constant_input(linear.node, 1, array, f"{name}_weight")
        self.nearest_error[name] = sum(each.nearest_error for each in found)
        self.error[name] = sum(each.error for each in found)


def _window(linear: Linear) -> Window | str:
    """What the layer reads, or why it can't be rounded."""
    node, weight = linear.node, linear.node.inputs[1]
    assert weight is not None
    assert weight.shape is not None
    if not used_once(weight):
        return "weights shared"
    if node.op_type == "ConvTranspose":
        return "its output is no sum over windows"
    sizes = weight.shape.numpy()
    features = math.prod(sizes) // linear.channels
    if node.op_type != "Conv":
        return Window(features)
    if node.attributes.get_string("auto_pad", "NOTSET") != "NOTSET":
        return "auto_pad"
    kernel = tuple(sizes[2:])
    ones = (1,) * len(kernel)
    return Window(
        features,
        kernel,
        tuple(node.attributes.get_ints("strides", ones)),
        tuple(node.attributes.get_ints("dilations", ones)),
        tuple(node.attributes.get_ints("pads", (0, 0) * len(kernel))),
        int(node.attributes.get_int("group", 1)),
    )
