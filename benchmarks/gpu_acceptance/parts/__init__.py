"""What a bare GPU machine tries: a file for each part, which runs in a process with a time limit.

A part's ``answer`` takes a :class:`Task` as JSON and returns figures as JSON values. An error that
it raises becomes its reason. If the failure is itself the result, it returns its figures with the
reason as ``failed``. It knows nothing about the other parts.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

Device = Literal["cuda", "cpu"]


@dataclass(frozen=True)
class Task:
    """The task of a part.

    Attributes:
        folder: written by ``--prepare DIR --without tensorrt``.
        work: an empty folder for this part.
        device: ``cpu`` in a rehearsal, which uses onnxruntime's CPU provider instead of CUDA's.
        limit_s: seconds until the part is ended; it should plan for less.
        images: the most test images to classify; None: all.
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
