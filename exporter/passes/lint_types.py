"""Check that a graph is strongly typed, so that a builder without precision flags can use it."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import onnx_ir as ir

from exporter.passes._signature import Signature, read_signature
from exporter.passes.constants import label
from exporter.passes.lint_qdq import Finding, Severity, keras_layer
from exporter.passes.qdq import is_op, producer_of

Rule = Callable[[ir.Node, Signature], Iterator[tuple[Severity, str]]]


def lint_types(model: ir.Model) -> list[Finding]:
    """Return all findings in graph order, an empty list if there are none. Changes nothing."""
    opset = model.opset_imports.get("", 1)
    found = []
    for node in model.graph:
        signature = read_signature(node, opset)
        if signature is None:
            found.append(_finding(node, "known-op", "error", f"not an op of ONNX opset {opset}"))
            continue
        for name, rule in RULES.items():
            found.extend(_finding(node, name, *each) for each in rule(node, signature))
    return found


def _mixed(node: ir.Node, signature: Signature) -> Iterator[tuple[Severity, str]]:
    """Inputs and outputs that must have the same type in ONNX do have it."""
    types: dict[str, dict[str, list[str]]] = {}
    pairs = [*zip(node.inputs, signature.inputs, strict=True)]
    pairs += zip(node.outputs, signature.outputs, strict=True)
    for value, formal in pairs:
        if value is None or not value.name or formal not in signature.allowed:
            continue
        dtype = _dtype(value)
        if dtype is not None:
            types.setdefault(formal, {}).setdefault(dtype.name, []).append(value.name)
    for by_type in types.values():
        if len(by_type) > 1:
            mix = "; ".join(f"{', '.join(names)}: {dtype}" for dtype, names in by_type.items())
            yield "error", f"it mixes types: {mix}"


def _allowed(node: ir.Node, signature: Signature) -> Iterator[tuple[Severity, str]]:
    """ONNX allows every type for the op."""
    pairs = [*zip(node.inputs, signature.inputs, strict=True)]
    pairs += zip(node.outputs, signature.outputs, strict=True)
    for value, formal in pairs:
        if value is None or not value.name:
            continue
        dtype = _dtype(value)
        if dtype is None:
            yield "error", f"the graph doesn't give the type of {value.name!r}"
        elif f"tensor({dtype.name.lower()})" not in signature.allowed.get(formal, {formal}):
            yield "error", f"{value.name!r} is {dtype.name}, but {node.op_type} can't have that"


def _cast_back(node: ir.Node, signature: Signature) -> Iterator[tuple[Severity, str]]:
    """No Cast undoes the one before it."""
    first = producer_of(node.inputs[0], "Cast") if is_op(node, "Cast") else None
    source = None if first is None else first.inputs[0]
    if first is not None and source is not None and source.dtype == node.outputs[0].dtype:
        yield "warning", f"it undoes {label(first)}: the pair costs time and precision"


RULES: dict[str, Rule] = {"mixed-types": _mixed, "allowed-type": _allowed, "cast-back": _cast_back}
"""The rules by name, in the order in which they are applied to each node."""


def _dtype(value: ir.Value) -> ir.DataType | None:
    """Return a tensor's type; for a constant that of its data, as its declaration may be stale."""
    return value.dtype if value.const_value is None else value.const_value.dtype


def _finding(node: ir.Node, rule: str, severity: Severity, message: str) -> Finding:
    return Finding(label(node), rule, severity, message, keras_layer(node))
