"""Choose the scheme of a quantized export, and check that the request fits it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from exporter.errors import WrongUse
from exporter.passes.schemes import SCHEMES, Scheme

if TYPE_CHECKING:
    from exporter.config import ExportConfig


def scheme_of(config: ExportConfig, own: str) -> Scheme:
    """Return the scheme for a quantized graph, with none of its options set.

    Args:
        config: a request with a quantized precision.
        own: the target's scheme. It applies if it belongs to that precision and the user gives
            no scheme.
    """
    rows = [row.name for row in SCHEMES.values() if row.precision == config.precision]
    return SCHEMES[config.int8.scheme or (own if own in rows else rows[0])]


def refuse_methods(config: ExportConfig, scheme: Scheme) -> None:
    """Refuse a calibrator or recovery method that makes no sense for the scheme.

    Raises:
        WrongUse: there is one. The message gives the reason.
    """
    for option, names in (
        ("--calibrator", (config.calibration.calibrator,)),
        ("--recovery", config.int8.recovery or ()),
    ):
        for name in names:
            if name in scheme.refuses:
                raise WrongUse(
                    f"{option} {name} and --precision {config.precision} contradict each other: "
                    f"{scheme.refuses[name]}"
                )
