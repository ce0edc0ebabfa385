"""Read from ONNX's schemas which inputs and outputs of a node must have the same type."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import onnx
import onnx_ir as ir

HALF_TYPE = "tensor(float16)"


@dataclass(frozen=True)
class Signature:
    """The formal types of one node's actual inputs and outputs.

    Attributes:
        inputs: type variables such as ``T``, or fixed types such as ``tensor(float)``.
        outputs: the same for the outputs.
        allowed: the types that each type variable may stand for.
    """

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    allowed: Mapping[str, frozenset[str]]

    def may_be_half(self, formal: str) -> bool:
        """Whether a tensor of this formal type may be FP16."""
        return HALF_TYPE in self.allowed.get(formal, ())


def read_signature(node: ir.Node, opset: int) -> Signature | None:
    """Return the signature of a node; None if this version of ONNX doesn't know the op."""
    if node.domain != "":
        return None
    try:
        schema = onnx.defs.get_schema(node.op_type, opset, "")
    except onnx.defs.SchemaError:
        return None
    inputs = _formal(schema.inputs, len(node.inputs), "in")
    outputs = _formal(schema.outputs, len(node.outputs), "out")
    allowed = {
        constraint.type_param_str: frozenset(constraint.allowed_type_strs)
        for constraint in schema.type_constraints
    }
    own = {each: allowed[each.split("[")[0]] for each in (*inputs, *outputs) if "[" in each}
    return Signature(inputs, outputs, allowed | own)


def _formal(parameters: Sequence[Any], count: int, side: str) -> tuple[str, ...]:
    """Return one formal type per actual parameter; the last parameter may be variadic.

    The values of a heterogeneous variadic may differ in type, so each gets its own type name.
    """
    found = []
    for index in range(count):
        parameter = parameters[min(index, len(parameters) - 1)]
        own = "" if parameter.is_homogeneous else f"[{side} {index}]"
        found.append(f"{parameter.type_str}{own}")
    return tuple(found)
