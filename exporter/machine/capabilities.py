"""Tell by compute capability which GPUs support a precision."""

from __future__ import annotations

from collections.abc import Sequence

from exporter.errors import WrongUse

# The lowest compute capability that has a precision, for precisions that not all GPUs have.
# "FP8 is only supported [...] on Ada and later architectures (compute capability 8.9 or later)":
# docs.nvidia.com/deeplearning/tensorrt-rtx/latest/inference-library/work-quantized-types.html.
# So Ada (8.9), Hopper (9.0), Blackwell (10.x, 12.x) and Thor (11.0) have it, and Turing, Ampere
# and Orin (8.7) don't.
FIRST_CAPABILITY = {"fp8": "8.9"}


def has_precision(compute_capability: str, precision: str) -> bool:
    """Return whether GPUs of a compute capability, such as "8.6", support a precision."""
    first = FIRST_CAPABILITY.get(precision)
    return first is None or _pair(compute_capability) >= _pair(first)


def needed_for(precision: str) -> str:
    """Describe in words which GPUs have a precision that not all GPUs have."""
    first = FIRST_CAPABILITY[precision]
    return f"{precision.upper()} needs {first} or later (Ada, Hopper, Blackwell, Thor)"


def check_capabilities(names: Sequence[str], precision: str) -> None:
    """Refuse GPUs that lack a precision, before any work begins.

    Raises:
        WrongUse: some lack it. Names them, and the lowest compute capability that has it.
    """
    lacking = [name for name in names if not has_precision(name, precision)]
    if lacking:
        raise WrongUse(
            f"--compute-capability {', '.join(lacking)} and --precision {precision} contradict "
            f"each other: these GPUs have no {precision.upper()}",
            hint=needed_for(precision),
        )


def _pair(capability: str) -> tuple[int, ...]:
    return tuple(int(part) for part in capability.split("."))
