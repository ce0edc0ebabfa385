"""Move Transposes toward the outputs until inverse ones meet and cancel."""

from __future__ import annotations

from copy import copy

import onnx_ir as ir

from exporter.passes import Kept, PassReport
from exporter.passes._transposed import RULES, Perm, Site, Sunk, inverse
from exporter.passes.constants import drop_unused_constants, label, set_constant_input, unique_name


class SinkTransposes(ir.passes.InPlacePass):
    """Move each Transpose past the ops that can do without it; join those that meet.

    With y = T(x) a Transpose:

        f(T(x)) = T(f'(x))                   f' is f with its axes and constants permuted
        T2(T1(x)) = T3(x)                    perm3[i] = perm1[perm2[i]]; nothing if perm3 = id

    A graph from tf2onnx is NHWC, with a Transpose on each side of a Conv or pool. The Transpose
    after a Conv moves through activation, residual Add and similar ops until it meets the one
    before the next Conv, and both cancel. NCHW remains, with one Transpose at an NHWC input of
    several channels. `_transposed.RULES` lists the ops. One sweep in graph order is enough,
    because every node comes after those that feed it.

    It must not fire if another input of the node has neither the same Transpose nor is constant;
    on constants of higher rank than x; if a reduction without keepdims, or a Squeeze, would
    leave its axes in another order; on a Softmax before opset 13; on BatchNormalization unless
    the channels are on axis 1; through ops that aren't in the table (Conv, pools: their layout is
    fixed); and inside subgraphs and functions. A Transpose stays before a graph output. If several
    nodes read a Transpose, those that can bypass it do, and it is removed once nothing reads it.

    Attributes:
        report: report of the latest call; `applied` names the nodes that Transposes moved through.
    """

    def __init__(self) -> None:
        """Take no options."""
        self.report = PassReport("sink_transposes")
        self._opset = 0

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Sweep once in graph order, then remove the Transposes that nothing reads."""
        self.report = PassReport("sink_transposes")
        self._opset = model.opset_imports.get("", 1)
        modified = False
        for node in tuple(model.graph):
            if self._try_join(node) or self._try_sink(node):
                modified = True
        if modified:
            _drop_unused_transposes(model.graph)
            drop_unused_constants(model.graph)
        return ir.passes.PassResult(model, modified=modified)

    def _try_join(self, node: ir.Node) -> bool:
        """Join a Transpose with the one before it, or remove it if it does nothing."""
        perm = _perm(node)
        if perm is None:
            return False
        first = node.inputs[0].producer() if node.inputs[0] is not None else None
        first_perm = None if first is None else _perm(first)
        if first is None or first_perm is None:
            return _is_identity(perm) and _try_bypass(node)
        node.replace_input_with(0, first.inputs[0])
        joined = tuple(first_perm[axis] for axis in perm)
        node.attributes.add(ir.AttrInt64s("perm", joined))
        if _is_identity(joined):
            _try_bypass(node)
        return True

    def _try_sink(self, node: ir.Node) -> bool:
        site = _read_site(node, self._opset)
        if site is None:
            return False
        sunk = RULES[node.op_type](site)
        if isinstance(sunk, str):
            self.report.kept.append(Kept(label(node), sunk))
            return False
        name = label(node)
        _apply(site, sunk)
        self.report.applied.append(name)
        return True


def _read_site(node: ir.Node, opset: int) -> Site | None:
    """Return the Transposes that a node with a rule reads, if they equal the first of them."""
    if node.domain != "" or node.op_type not in RULES:
        return None
    producers = [None if value is None else value.producer() for value in node.inputs]
    perms = [None if producer is None else _perm(producer) for producer in producers]
    perm = next((perm for perm in perms if perm is not None), None)
    if perm is None:
        return None
    sources = tuple(
        producer.inputs[0] if producer is not None and each == perm else None
        for producer, each in zip(producers, perms, strict=True)
    )
    return Site(node, perm, sources, opset)


def _apply(site: Site, sunk: Sunk) -> None:
    node = site.node
    for index, source in enumerate(site.sources):
        if source is not None:
            node.replace_input_with(index, source)
    for index, array in sunk.constants.items():
        old = node.inputs[index]
        hint = f"{label(node)}_input{index}" if old is None or old.name is None else old.name
        set_constant_input(node, index, array, hint)
    for attribute in sunk.attributes:
        node.attributes.add(attribute)
    if sunk.transposes:
        _transpose_output(node, site.perm)


def _transpose_output(node: ir.Node, perm: Perm) -> None:
    """Put a Transpose after the node's first output, and let that output's readers read it."""
    graph, value = node.graph, node.outputs[0]
    assert graph is not None
    shape, was_output = value.shape, value.is_graph_output()
    transpose = ir.Node("", "Transpose", [None], [ir.AttrInt64s("perm", perm)])
    result = transpose.outputs[0]
    # A copy, because setting `dtype` on one value would change the shared type object.
    result.type, result.shape = copy(value.type), shape
    result.name = unique_name(graph, f"{value.name}_transposed")
    ir.convenience.replace_all_uses_with(value, result, replace_graph_outputs=True)
    transpose.replace_input_with(0, value)
    graph.insert_after(node, transpose)
    if shape is not None and len(shape) == len(perm):
        value.shape = ir.Shape([shape[axis] for axis in inverse(perm)])
    if was_output:  # a graph output keeps its name
        value.name, result.name = result.name, value.name


def _try_bypass(node: ir.Node) -> bool:
    """Let the readers of a Transpose that does nothing read its input; output names stay."""
    source, value, graph = node.inputs[0], node.outputs[0], node.graph
    assert source is not None
    assert graph is not None
    fixed = source.producer() is None or source.is_graph_output()
    if value.is_graph_output() and fixed:
        node.op_type = "Identity"
        node.attributes.clear()
        return True
    name = value.name if value.is_graph_output() else source.name
    ir.convenience.replace_all_uses_with(value, source, replace_graph_outputs=True)
    source.shape = source.shape or value.shape
    source.type = source.type or value.type
    graph.remove(node, safe=True)
    source.name = name
    return True


def _drop_unused_transposes(graph: ir.Graph) -> None:
    for node in reversed(tuple(graph)):
        unused = not node.outputs[0].uses() and not node.outputs[0].is_graph_output()
        if node.op_type == "Transpose" and unused:
            graph.remove(node, safe=True)


def _perm(node: ir.Node) -> Perm | None:
    """Return the permutation of a Transpose; None for other nodes, and if it isn't known."""
    if node.op_type != "Transpose" or node.domain != "":
        return None
    source = node.inputs[0]
    if source is None:
        return None
    perm = node.attributes.get_ints("perm")
    if perm is not None:
        return tuple(perm)
    return None if source.shape is None else tuple(reversed(range(len(source.shape))))


def _is_identity(perm: Perm) -> bool:
    return perm == tuple(range(len(perm)))
