"""Fold zero padding into the convolution or max pooling after it."""

from __future__ import annotations

import onnx_ir as ir

from exporter.passes import Kept, PassReport
from exporter.passes.constants import constant_array, drop_unused_constants, label, used_once

_NOT_NEGATIVE = frozenset({"Relu", "Sigmoid"})


class FoldPad(ir.passes.InPlacePass):
    """Merge a Pad with zeros into the Conv or MaxPool that is its only reader.

    conv(pad(x, p), pads=q) = conv(x, pads=p + q), since a convolution pads with zeros itself. A
    max pooling pads with minus infinity. That makes no difference for values that aren't negative,
    such as a Relu's output. The networks of keras.applications pad in separate layers. Between Q
    and DQ a Pad would be computed in float, because runtimes have no integer kernel for it.

    It must not fire on another mode than constant or another value than zero; on pads that aren't
    constant, crop, or pad the batch or the channels; if auto_pad depends on the padded size; if
    the padded value is used elsewhere or is a graph output; before a max pooling if its values may
    be negative, if it is dilated or rounds up, or if a window could lie entirely in the padding.
    The graph is NCHW.

    Attributes:
        report: report of the latest call; `applied` names the Pads.
    """

    def __init__(self) -> None:
        """Take no options."""
        self.report = PassReport("fold_pad")

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Fold each Pad."""
        self.report = PassReport("fold_pad")
        for node in tuple(model.graph):
            self._try_fold(node)
        if self.report.applied:
            drop_unused_constants(model.graph)
        return ir.passes.PassResult(model, modified=bool(self.report.applied))

    def _try_fold(self, node: ir.Node) -> bool:
        if node.op_type != "Pad" or node.domain != "" or node.graph is None:
            return False
        pads = _spatial_zeros(node)
        if isinstance(pads, str):
            self.report.kept.append(Kept(label(node), pads))
            return False
        value = node.outputs[0]
        reader = value.consumers()[0] if used_once(value) else None
        reason = "used elsewhere" if reader is None else _refusal(node, reader, pads)
        if reader is None or reason is not None:
            self.report.kept.append(Kept(label(node), reason or ""))
            return False
        self.report.applied.append(label(node))
        own = reader.attributes.get_ints("pads", [0] * len(pads))
        both = [before + inside for before, inside in zip(pads, own, strict=True)]
        reader.attributes.pop("auto_pad", None)
        reader.attributes["pads"] = ir.AttrInt64s("pads", both)
        reader.replace_input_with(0, node.inputs[0])
        node.graph.remove(node, safe=True)
        return True


def _spatial_zeros(node: ir.Node) -> list[int] | str:
    """Return the zeros added to height and width, all beginnings first, or why it can't fold."""
    mode = node.attributes.get_string("mode", "constant")
    if mode != "constant":
        return f"mode is {mode!r}"
    inputs = [*node.inputs, None, None, None]
    pads, fill, axes = (constant_array(value) for value in inputs[1:4])
    if pads is None or any(v is not None and constant_array(v) is None for v in inputs[2:4]):
        return "pads aren't constant"
    if fill is not None and fill.any():
        return "pads with other values than zero"
    if axes is not None:
        return "pads chosen axes"
    rank = len(pads) // 2
    begin, end = pads[:rank], pads[rank:]
    if rank < 3 or begin[:2].any() or end[:2].any():
        return "pads batch or channels"
    if (pads < 0).any():
        return "crops"
    return [int(size) for size in (*begin[2:], *end[2:])]


def _refusal(pad: ir.Node, reader: ir.Node, pads: list[int]) -> str | None:
    if reader.op_type not in ("Conv", "MaxPool") or reader.domain != "":
        return f"{reader.op_type} doesn't pad"
    if reader.inputs[0] is not pad.outputs[0]:
        return f"not the data of {label(reader)}"
    auto = reader.attributes.get_string("auto_pad", "NOTSET")
    if auto not in ("NOTSET", "VALID"):
        return f"auto_pad of {label(reader)} is {auto}"
    return None if reader.op_type == "Conv" else _pool_refusal(pad, reader, pads)


def _pool_refusal(pad: ir.Node, pool: ir.Node, pads: list[int]) -> str | None:
    source = pad.inputs[0]
    if any(value.uses() or value.is_graph_output() for value in pool.outputs[1:]):
        return f"{label(pool)} gives places in the padded tensor too"
    if source is None or not _never_negative(source):
        return "values before a max pooling may be negative"
    attributes = pool.attributes
    kernel = list(attributes.get_ints("kernel_shape", []))
    if attributes.get_int("ceil_mode", 0) or set(attributes.get_ints("dilations", [])) - {1}:
        return f"{label(pool)} is dilated or rounds up"
    own = attributes.get_ints("pads", [0] * len(pads))
    if any(a + b >= k for a, b, k in zip(pads, own, kernel * 2, strict=True)):
        return f"a window of {label(pool)} could lie in the padding"
    return None


def _never_negative(value: ir.Value) -> bool:
    node = value.producer()
    if node is None or node.domain != "":
        return False
    if node.op_type == "Clip":
        low = constant_array(node.inputs[1]) if len(node.inputs) > 1 else None
        return low is not None and bool((low >= 0).all())
    return node.op_type in _NOT_NEGATIVE
