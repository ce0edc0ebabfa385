"""Where the nodes of an onnxruntime session run: read back, recorded, refused where it is the CPU.

onnxruntime gives every node that a provider declines to its CPU provider and says so in no result.
Since 1.24 a session can be asked: https://github.com/microsoft/onnxruntime/pull/26781.
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
    """One node that does not run on the provider that was asked for.

    Attributes:
        node: its name, or its number among its subgraph's nodes where it has none.
        op_type: what it computes.
        provider: where it runs.
    """

    node: str
    op_type: str
    provider: str

    def __str__(self) -> str:
        """Return it as a message names it."""
        return f"{self.op_type} {self.node}".strip()


@dataclass(frozen=True)
class Placement:
    """Where the nodes of one session run.

    Attributes:
        asked: the provider that was asked for.
        nodes: how many run on each provider.
        elsewhere: those that run on another.
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
        session: made with :data:`RECORD` set to 1. Nodes that onnxruntime folds into constants
            are gone by then, and the copies that it puts between providers are not among them.
        asked: the provider that it was asked for.
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
    """Refuse a session that runs nodes elsewhere than it was asked to.

    Raises:
        ExporterError: names the nodes.
    """
    if not placement.elsewhere:
        return
    count, total = len(placement.elsewhere), sum(placement.nodes.values())
    shown = ", ".join(map(str, placement.elsewhere[:_SHOWN]))
    more = f" and {count - _SHOWN} more" if count > _SHOWN else ""
    where = ", ".join(sorted({each.provider for each in placement.elsewhere}))
    raise ExporterError(
        f"{what}: {count} of {total} nodes would not run on {placement.asked} but on {where}: "
        f"{shown}{more}",
        hint="to accept that, export or compile with --allow-fallback",
    )
