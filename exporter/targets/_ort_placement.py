"""Read where the nodes of an onnxruntime session run, and refuse a fallback to the CPU.

If a provider declines a node, onnxruntime silently runs it on its CPU provider. Since 1.24, a
session can list where its nodes run: https://github.com/microsoft/onnxruntime/pull/26781.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from exporter.errors import ExporterError

RECORD = "session.record_ep_graph_assignment_info"
_SHOWN = 5


@dataclass(frozen=True)
class Placed:
    """One node that doesn't run on the requested provider.

    Attributes:
        node: its name; if it has none, its number among its subgraph's nodes.
        op_type: its ONNX op.
        provider: the provider that runs it.
    """

    node: str
    op_type: str
    provider: str

    def __str__(self) -> str:
        """Return the node's op and name, for messages."""
        return f"{self.op_type} {self.node}".strip()


@dataclass(frozen=True)
class Placement:
    """Where the nodes of one session run.

    Attributes:
        asked: the requested provider.
        nodes: number of nodes by provider.
        elsewhere: the nodes that run on another provider.
    """

    asked: str
    nodes: Mapping[str, int]
    elsewhere: tuple[Placed, ...]

    def as_json(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return {
            "asked": self.asked,
            "nodes": dict(self.nodes),
            "elsewhere": [asdict(each) for each in self.elsewhere],
        }


def read(session: Any, asked: str) -> Placement:
    """Read where a session's nodes run.

    Args:
        session: created with :data:`RECORD` set to 1. Its list lacks nodes that onnxruntime
            folded into constants, and the copies that it inserts between providers.
        asked: the requested provider.
    """
    counts: Counter[str] = Counter()
    elsewhere = []
    for subgraph in session.get_provider_graph_assignment_info():
        for number, node in enumerate(subgraph.get_nodes()):
            counts[subgraph.ep_name] += 1
            if subgraph.ep_name != asked:
                name = node.name or f"number {number}"
                elsewhere.append(Placed(name, node.op_type, subgraph.ep_name))
    return Placement(asked, dict(counts), tuple(elsewhere))


def refuse_fallback(placement: Placement, what: str) -> None:
    """Refuse a session that runs nodes on another provider than the requested one.

    Raises:
        ExporterError: there are such nodes. The message names them.
    """
    if not placement.elsewhere:
        return
    count, total = len(placement.elsewhere), sum(placement.nodes.values())
    shown = ", ".join(map(str, placement.elsewhere[:_SHOWN]))
    more = f" and {count - _SHOWN} more" if count > _SHOWN else ""
    where = ", ".join(sorted({each.provider for each in placement.elsewhere}))
    raise ExporterError(
        f"{what}: {count} of {total} nodes would run on {where} instead of {placement.asked}: "
        f"{shown}{more}",
        hint="to accept this, export or compile with --allow-fallback",
    )
