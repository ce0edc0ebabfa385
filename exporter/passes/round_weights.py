"""Round weights to the quantized grid so that the layer's output changes least."""

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
    """Return the input tensor and window of each layer that `RoundWeights` can round, by name."""
    return {
        label(linear.node): (str(linear.node.inputs[0] and linear.node.inputs[0].name), window)
        for linear in place(model, scheme).linears
        if isinstance(window := _window(linear), Window)
    }


class RoundWeights(ir.passes.InPlacePass):
    """Replace each weight by one of its two neighboring quantized numbers, kept as float.

    `calibration.rounding` chooses between the two for a whole output channel, using the second
    moments of the layer's input. The scale is the one that InsertQdq uses, from the channel's
    amax. The largest weight is on the grid already, so the scale stays the same. InsertQdq runs
    later and finds weights on the grid, which its own rounding doesn't change.

    It must not fire on layers that InsertQdq would leave in float, if another node also uses the
    weight, on ConvTranspose, since its output is not a sum over windows of its input, or on a Conv
    with `auto_pad`. Each is in `report.kept`.

    Attributes:
        report: report of the latest call; `applied` names the linear nodes.
        nearest_error: by node, mean squared error of the output with nearest rounding, summed
            over channels, in units of the squared scales.
        error: the same for the chosen rounding.
    """

    def __init__(self, scheme: Scheme, moments: Mapping[str, Array]) -> None:
        """Take the measured moments.

        Args:
            scheme: a row of `exporter.passes.schemes.SCHEMES`.
            moments: second moments (groups, n, n) of `layers_to_measure`, or of some of them. The
                other layers are not changed and not reported.
        """
        self.report = PassReport("round_weights")
        self.nearest_error: dict[str, float] = {}
        self.error: dict[str, float] = {}
        self._scheme, self._moments = scheme, moments

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Round one layer after the other; each needs only its own moments."""
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
        assert not isinstance(parameters, str), "place() has read them already"
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
    """Return the layer's window, or why it can't be rounded."""
    node, weight = linear.node, linear.node.inputs[1]
    assert weight is not None
    assert weight.shape is not None
    if not used_once(weight):
        return "weights shared"
    if node.op_type == "ConvTranspose":
        return "its output isn't a sum over windows"
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
