"""What the parts of a bare run must show, as rows of a table, and the verdict for each."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from benchmarks.gpu_acceptance.expectations import Judged, Look

Figures = Mapping[str, Any]


@dataclass(frozen=True)
class Expectation:
    """One row.

    Attributes:
        name: in a word or two.
        says: in a sentence.
        part: whose figures decide.
        look: judges them; yields model, variant and one look.
    """

    name: str
    says: str
    part: str
    look: Callable[[Figures], Iterable[tuple[str, str, Look]]]


def _all_on_cuda(figures: Figures) -> Iterable[tuple[str, str, Look]]:
    for row in figures["rows"]:
        placement = row["placement"]
        if placement is None:
            yield row["model"], row["variant"], Look("-", None, "not asked of the CPU's provider")
            continue
        found = ", ".join(f"{count} {name}" for name, count in placement["nodes"].items())
        yield row["model"], row["variant"], Look(found, not placement["elsewhere"])


# Flips of 10,000 that rounding explains: FP32 sums in another order, factors of 10 bits, FP16.
_MOST_FLIPS = {"fp32": 5, "tf32": 20, "fp16": 20}


def _flips(figures: Figures) -> Iterable[tuple[str, str, Look]]:
    for row in figures["rows"]:
        allowed = _MOST_FLIPS[row["variant"]] * figures["images"] / 10_000
        count = len(row["flipped"])
        found = f"{count} of {figures['images']:,}, {allowed:g} allowed"
        whole = figures["images"] == figures["of"]
        why = "" if whole else "not on all test images"
        yield row["model"], row["variant"], Look(found, count <= allowed if whole else None, why)


def _simulation(figures: Figures) -> Iterable[tuple[str, str, Look]]:
    """Compare each image's label with the simulation's. 99.9% must be the same."""
    for row in figures["rows"]:
        told = row["simulation"]
        if told is None:
            continue
        same = 100 * (1 - told["label_flips"] / told["images"])
        predicted, flipped = set(told["predicted"]), set(row["flipped"])
        found = (
            f"{same:.2f}% the same label; {len(predicted)} flips predicted, {len(flipped)} found, "
            f"{len(predicted & flipped)} of them the same images"
        )
        yield row["model"], row["variant"], Look(found, same >= 99.9)


def _exact(figures: Figures) -> Iterable[tuple[str, str, Look]]:
    found = figures["exact"]
    good = found["max_abs_error"] == 0 and found["graph_with"] and not found["graph_without"]
    yield "runner", "-", Look(f"largest error {found['max_abs_error']:g}", good)


def _leaks(figures: Figures) -> Iterable[tuple[str, str, Look]]:
    found = figures["leaks"]
    text = f"{found['gpu_bytes']} bytes of the GPU, {found['host_mib']:.1f} MiB of the host"
    good = found["gpu_bytes"] <= 0 and found["host_mib"] < 8
    yield "runner", "-", Look(f"{text}, after {found['calls']:,} calls", good)


def _clock(figures: Figures) -> Iterable[tuple[str, str, Look]]:
    """Events time the stream. The host also times its own part, which is a little more."""
    found = figures["clock"]
    text = f"events {found['events_ms']:.2f} ms, host {found['host_ms']:.2f} ms"
    yield "runner", "-", Look(text, 0.8 <= found["events_by_host"] <= 1.0)


def _energy(figures: Figures) -> Iterable[tuple[str, str, Look]]:
    ratio = figures["power_by_energy"]
    if ratio is None:
        yield "nvml", "-", Look("-", None, "the energy counter did not move")
        return
    text = f"{figures['power_w']:.0f} W, integrated {ratio:.2f} times the counter's energy"
    yield "nvml", "-", Look(text, 0.85 <= ratio <= 1.15)


def _load(figures: Figures) -> Iterable[tuple[str, str, Look]]:
    idle, loaded = figures["idle"]["unstable"], figures["loaded"]["unstable"]
    yield "nvml", "-", Look("; ".join(loaded) or "not noticed", bool(loaded) and not idle)


def _rtx(figures: Figures) -> Iterable[tuple[str, str, Look]]:
    for row in figures["rows"]:
        ran = "error" not in row
        found = f"{len(row['flipped'])} flips" if ran else "did not run"
        why = f"doctor predicted: {row.get('doctor', figures['predicted'])}"
        said = f"{row['error']}; {why}" if "error" in row else why
        yield row["model"], row["variant"], Look(found, ran, said)


EXPECTATIONS: tuple[Expectation, ...] = (
    Expectation("placement", "every node runs on CUDA", "accuracy", _all_on_cuda),
    Expectation("flips", "no more labels differ from Keras' than rounding", "accuracy", _flips),
    Expectation("simulation", "FP16 gives our simulation's label", "accuracy", _simulation),
    Expectation("results", "our runner gives numpy's numbers", "runner", _exact),
    Expectation("leaks", "our runner keeps no memory", "runner", _leaks),
    Expectation("clock", "events agree with the host's clock within 20%", "runner", _clock),
    Expectation("energy", "power agrees with the energy counter within 15%", "nvml", _energy),
    Expectation("load", "a busy GPU is called unstable, an idle one is not", "nvml", _load),
    Expectation("engine", "TensorRT-RTX builds, loads and runs", "rtx", _rtx),
)


def judge(figures: Mapping[str, Figures]) -> list[dict[str, Any]]:
    """Judge the parts that have figures by the expectations.

    Args:
        figures: by part; empty if the part failed.

    Returns:
        The verdicts: :class:`benchmarks.gpu_acceptance.expectations.Judged` as JSON values.
    """
    return [
        Judged(
            model,
            variant,
            row.name,
            row.says,
            look.found,
            look.verdict,
            look.why,
        ).as_json()
        for row in EXPECTATIONS
        if figures.get(row.part)
        for model, variant, look in row.look(figures[row.part])
    ]
