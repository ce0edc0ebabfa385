"""What is tried on a bare GPU machine: one file a part, each in a process with a time limit.

A part's ``answer`` takes a :class:`Task` as JSON and returns figures as JSON values. What it raises
becomes its reason. If a failure is itself what it found out, it returns its figures with the reason
as ``failed``. It knows nothing of the other parts.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

Device = Literal["cuda", "cpu"]


@dataclass(frozen=True)
class Task:
    """What a part works on.

    Attributes:
        folder: as ``--prepare DIR --without tensorrt`` wrote it.
        work: an empty folder of the part's own.
        device: ``cpu`` in a rehearsal, where onnxruntime's CPU provider takes CUDA's place.
        limit_s: seconds until the part is ended; it should plan with fewer.
        images: how many test images to classify at most; None: all.
    """

    folder: Path
    work: Path
    device: Device = "cuda"
    limit_s: float = 60.0
    images: int | None = None

    def as_json(self) -> str:
        """Return the line that a part reads."""
        return json.dumps(asdict(self), default=str)

    @classmethod
    def from_json(cls, line: str) -> Task:
        """Read what :meth:`as_json` wrote."""
        given = json.loads(line)
        return cls(**{**given, "folder": Path(given["folder"]), "work": Path(given["work"])})
