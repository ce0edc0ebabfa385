"""Write a repetition of rows or columns as the Resize that it is."""

from __future__ import annotations

from math import prod

import numpy as np
import onnx_ir as ir

from exporter.passes import PassReport
from exporter.passes.constants import (
    add_initializer,
    constant_array,
    drop_unused_constants,
    label,
    unique_name,
    used_once,
)

_SINCE_OPSET = 13


class RepeatToResize(ir.passes.InPlacePass):
    """Rewrite Unsqueeze, Tile and Reshape that repeat each element of an axis as one Resize.

    y[.., r*i + k, ..] = x[.., i, ..] for 0 <= k < r: an axis is added behind the repeated one,
    tiled r times, and merged with it. That is Resize with mode nearest, coordinates asymmetric,
    rounding floor and scale r on that axis. Two in a row are one Resize with the product of their
    scales. Keras 3 makes UpSampling2D (nearest) of two such repetitions: 16 nodes in place of
    one, which stay float under INT8 and which no runtime fuses.

    It must not fire if the Tile repeats another axis too, if its input has open sizes beyond the
    first axis, if a value between is used elsewhere, or before opset 13, where axes are no input.

    Attributes:
        report: of the latest call; `applied` names the Reshapes.
    """

    def __init__(self) -> None:
        """Take no options."""
        self.report = PassReport("repeat_to_resize")

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Rewrite in graph order, and join each Resize with the one before it."""
        self.report = PassReport("repeat_to_resize")
        if model.opset_imports.get("", 1) >= _SINCE_OPSET:
            for node in tuple(model.graph):
                self._try_rewrite(node)
        if self.report.applied:
            drop_unused_constants(model.graph)
        return ir.passes.PassResult(model, modified=bool(self.report.applied))

    def _try_rewrite(self, reshape: ir.Node) -> bool:
        found = _repetition(reshape)
        if found is None:
            return False
        unsqueeze, tile, scales = found
        graph, value = reshape.graph, unsqueeze.inputs[0]
        assert graph is not None
        assert value is not None
        before = value.producer()
        if before is not None and used_once(value) and (inner := _repeats(before)) is not None:
            scales, value = scales * inner, before.inputs[0]
        name = label(reshape)
        constant = add_initializer(
            graph, scales.astype(np.float32), unique_name(graph, f"{name}_scales")
        )
        resize = _resize(value, constant, name)
        resize.metadata_props.update(reshape.metadata_props)
        graph.insert_after(reshape, resize)
        old, new = reshape.outputs[0], resize.outputs[0]
        new.shape, new.type, new.name = old.shape, old.type, old.name
        old.name = None
        ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)
        graph.remove([reshape, tile, unsqueeze], safe=True)
        if before is not None and before.op_type == "Resize" and not before.outputs[0].uses():
            graph.remove(before, safe=True)
        self.report.applied.append(name)
        return True


def _resize(value: ir.Value | None, scales: ir.Value, name: str) -> ir.Node:
    attributes = {
        "mode": "nearest",
        "coordinate_transformation_mode": "asymmetric",
        "nearest_mode": "floor",
    }
    node = ir.node("Resize", [value, None, scales], attributes)
    node.name = name
    return node


def _repetition(reshape: ir.Node) -> tuple[ir.Node, ir.Node, np.ndarray] | None:
    """Return the Unsqueeze, the Tile and the scale of each axis, if a Reshape ends a repetition."""
    tile = _only_producer(reshape, "Reshape", "Tile")
    unsqueeze = None if tile is None else _only_producer(tile, "Tile", "Unsqueeze")
    if tile is None or unsqueeze is None:
        return None
    source = unsqueeze.inputs[0]
    shape, result = None if source is None else source.shape, reshape.outputs[0].shape
    axes, repeats = constant_array(unsqueeze.inputs[1]), constant_array(tile.inputs[1])
    if shape is None or result is None or axes is None or repeats is None or axes.size != 1:
        return None
    added = int(axes.item()) % (len(shape) + 1)
    rest = np.delete(repeats, added)
    if added == 0 or prod(rest.tolist()) != 1 or repeats.size != len(shape) + 1:
        return None
    scales = np.ones(len(shape), np.int64)
    scales[added - 1] = repeats[added]
    sizes = [
        size * int(by) if isinstance(size, int) else None
        for size, by in zip(shape, scales, strict=True)
    ]
    same = len(result) == len(sizes) and list(result)[1:] == sizes[1:]
    return (unsqueeze, tile, scales) if same and None not in sizes[1:] and added > 1 else None


def _only_producer(node: ir.Node, op_type: str, before: str) -> ir.Node | None:
    """Return the node before one of ``op_type``, if it is a ``before`` that nothing else reads."""
    if node.op_type != op_type or node.domain != "" or node.inputs[0] is None:
        return None
    producer = node.inputs[0].producer()
    if producer is None or producer.op_type != before or producer.domain != "":
        return None
    return producer if used_once(node.inputs[0]) else None


def _repeats(node: ir.Node) -> np.ndarray | None:
    """Return the scales of a Resize that this pass wrote; None for other nodes."""
    is_ours = (
        node.op_type == "Resize"
        and node.attributes.get_string("mode", "nearest") == "nearest"
        and node.attributes.get_string("coordinate_transformation_mode") == "asymmetric"
        and node.attributes.get_string("nearest_mode") == "floor"
        and len(node.inputs) == 3
    )
    scales = constant_array(node.inputs[2]) if is_ours else None
    whole = scales is not None and np.array_equal(scales, scales.round()) and scales.min() >= 1
    return scales if whole else None
