"""What this machine is taken for: in a container on a Jetson nothing is seen of the device tree."""

from __future__ import annotations

from pathlib import Path

import pytest

from exporter.engines import here
from exporter.machine import gpus
from exporter.machine.gpus import Gpu

RELEASE = "Jetson (Jetson Linux 36.4.3)"


@pytest.mark.parametrize(
    ("gpu", "by_cuda", "expected"),
    [
        (Gpu("Orin (nvgpu)"), None, ("Jetson Orin", "8.7", None)),
        (Gpu(RELEASE), "8.7", (RELEASE, "8.7", None)),
        (Gpu(RELEASE), None, (RELEASE, None, None)),
        (Gpu("NVIDIA T4", compute_capability="7.5"), "9.0", ("NVIDIA T4", "7.5", 0)),
        (Gpu("NVIDIA GPU (/dev/nvidia0)"), "8.0", ("NVIDIA GPU (/dev/nvidia0)", "8.0", 0)),
    ],
)
def test_the_gpu_tells(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    gpu: Gpu,
    by_cuda: str | None,
    expected: tuple[str, str | None, int | None],
) -> None:
    asked = None if by_cuda is None else Gpu("CUDA's", compute_capability=by_cuda)
    monkeypatch.setattr(here, "find_gpus", lambda _: gpus.Gpus("it", (gpu,)))
    monkeypatch.setattr(here, "by_cuda", lambda: asked)
    found = here.this_machine("tensorrt", tmp_path)
    assert (found.gpu, found.compute_capability, found.dla_cores) == expected
    assert found.is_jetson == expected[0].startswith("Jetson")
