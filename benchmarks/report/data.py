"""The content of a report: measurements as read from files, before anything is drawn."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from benchmarks.accuracy.paired import Paired
from benchmarks.latency.bench import deployed_bytes
from benchmarks.latency.result import Ratio
from exporter import targets
from exporter.artifact.folder import Artifact
from exporter.network.agreement import Agreement

KERAS = "keras"
ORIGINALS = {KERAS: "Keras, compiled", "keras-xla": "Keras, XLA"}


@dataclass(frozen=True)
class Origin:
    """Where a measurement was made. A field is None or empty if the file doesn't say.

    Attributes:
        file: that it was read from, as seen from the reported folder.
        command: that measures this.
        date: ISO 8601.
        machine: as :func:`benchmarks.result_file.machine`.
        versions: of the libraries.
    """

    file: str
    command: str
    date: str | None = None
    machine: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Subject:
    """An artifact of the report.

    Attributes:
        artifact: its folder and passport.
        facts: names and values for people, as ``exporter inspect`` shows them.
    """

    artifact: Artifact
    facts: tuple[tuple[str, str], ...]

    @property
    def name(self) -> str:
        """The name of its folder."""
        return self.artifact.path.resolve().name

    @property
    def kind(self) -> str:
        """Its target and precision, such as ``ort INT8``."""
        return f"{self.artifact.target} {self.artifact.passport['precision'].upper()}"

    @property
    def deployed_bytes(self) -> int:
        """The size of its deployed files: all but our own records."""
        return deployed_bytes(self.artifact)

    @property
    def caution(self) -> str | None:
        """A warning if the engine itself did not run here; None if it did."""
        if targets.simulates(self.artifact):
            return "simulation: Q/DQ and FP16 executed as written on the CPU; not run on a GPU"
        executed = self.artifact.passport.get(self.artifact.target, {}).get("executed")
        if isinstance(executed, str):
            return executed
        if targets.runs_on(self.artifact.target) == "gpu" and not isinstance(executed, Mapping):
            return "not run on a GPU"
        return None


@dataclass(frozen=True)
class Timing:
    """One engine at one batch size, read from a :class:`benchmarks.latency.result.Row`.

    Attributes:
        rounds_ms: the median of each round; empty where only the passport tells.
        energy_mj: millijoules a sample by meter, median of the rounds.
    """

    engine: str
    batch: int
    quantiles_ms: Mapping[str, float] = field(default_factory=dict)
    mean_ms: float | None = None
    throughput: float | None = None
    speedup: Ratio | None = None
    peak_rss_mib: float | None = None
    file_bytes: int | None = None
    rounds_ms: tuple[float, ...] = ()
    energy_mj: Mapping[str, float] = field(default_factory=dict)
    error: str | None = None

    @property
    def p50(self) -> float:
        """The median time of a call, in milliseconds."""
        return self.quantiles_ms["50"]


@dataclass(frozen=True)
class Bench:
    """One run of ``exporter bench``, even if several passports recorded it."""

    origin: Origin
    scenario: str
    metric: str
    baseline: str
    rows: tuple[Timing, ...]
    unstable: tuple[str, ...]
    verdicts: tuple[str, ...]
    settings: Mapping[str, Any]

    @property
    def timed(self) -> list[Timing]:
        """The rows without an error."""
        return [row for row in self.rows if row.quantiles_ms]

    @property
    def engines(self) -> list[str]:
        """The engines' names, in the order of the rows."""
        return list(dict.fromkeys(row.engine for row in self.rows))

    @property
    def batches(self) -> list[int]:
        """The batch sizes (images per call), ascending."""
        return sorted({row.batch for row in self.timed})

    def find(self, engine: str, batch: int) -> Timing | None:
        """Return the row of an engine and a batch size, if it has no error."""
        return next((r for r in self.timed if (r.engine, r.batch) == (engine, batch)), None)


@dataclass(frozen=True)
class Scored:
    """The accuracy of one engine.

    As :class:`benchmarks.accuracy.measure.Accuracy`, of which it is read.
    """

    origin: Origin
    engine: str
    data: str
    images: int
    top1: float
    top5: float | None = None
    agreement: Agreement | None = None
    paired: Paired | None = None


@dataclass(frozen=True)
class Change:
    """The change from one rung to another, as :class:`benchmarks.drift.ladder.Change`."""

    agreement: Agreement
    paired: Paired
    sqnr_db: float | None


@dataclass(frozen=True)
class Rung:
    """A rung of the drift ladder, or the reason why it was not run."""

    name: str
    what: str
    not_run: str | None
    correct: int | None
    top1: float | None
    against_keras: Change | None
    against_before: Change | None


@dataclass(frozen=True)
class Noise:
    """A layer of the drift ladder. No SQNR means exact if its noise is 0, otherwise not finite."""

    name: str
    op: str
    own_noise: float | None
    own_sqnr_db: float | None
    total_noise: float | None
    total_sqnr_db: float | None


@dataclass(frozen=True)
class Walk:
    """The layers between two rungs, in graph order."""

    before: str
    after: str
    images: int
    layers: tuple[Noise, ...]


@dataclass(frozen=True)
class Flip:
    """An image whose class differs between rungs."""

    image: int
    label: str
    predictions: Mapping[str, str]


@dataclass(frozen=True)
class Drift:
    """A drift ladder.

    Attributes:
        picture: the contact sheet of flipped images, a PNG; None where there is none.
    """

    origin: Origin
    artefact: str
    target: str
    precision: str
    data: str
    images: int
    sentence: str
    rungs: tuple[Rung, ...]
    flips: tuple[Flip, ...]
    walk: Walk | None
    picture: Path | None


@dataclass(frozen=True)
class LayerCost:
    """The loss of the logits if only this layer is quantized. SQNR is None for no loss or all."""

    name: str
    sqnr_db: float | None
    noise: float | None
    label_flips: int
    macs: int
    macs_share: float


@dataclass(frozen=True)
class Sensitivity:
    """The layers of a network, the costliest first."""

    origin: Origin
    of: str
    scheme: str
    images: int
    layers: tuple[LayerCost, ...]
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class Missed:
    """A file that looks like a result but is not in the report, with the reason."""

    file: str
    why: str


@dataclass(frozen=True)
class Findings:
    """Everything that was read from a folder, the newest of each kind first."""

    folder: Path
    subjects: tuple[Subject, ...] = ()
    benches: tuple[Bench, ...] = ()
    scores: tuple[Scored, ...] = ()
    drifts: tuple[Drift, ...] = ()
    sensitivities: tuple[Sensitivity, ...] = ()
    missed: tuple[Missed, ...] = ()

    def __bool__(self) -> bool:
        """Whether there is anything to show."""
        return any(
            (self.subjects, self.benches, self.scores, self.drifts, self.sensitivities),
        )

    @property
    def title(self) -> str:
        """The network's name if all artifacts are of one network, otherwise the folder's."""
        models = {str(one.artifact.passport["source"].get("model")) for one in self.subjects}
        return models.pop() if len(models) == 1 else self.folder.resolve().name

    @property
    def images(self) -> tuple[str, int] | None:
        """The test images (data set and count) that most results use."""
        return (self.scores[0].data, self.scores[0].images) if self.scores else None

    def subject(self, engine: str, date: str | None = None) -> Subject | None:
        """Find the artifact that an engine of a result is.

        Results name artifacts by path, and folders move: the last part decides, where only one
        artifact has it. One that was exported after the measurement is another one.

        Args:
            engine: as in the result.
            date: of the measurement, where known.
        """
        path = Path(engine.removesuffix(" (simulated)"))
        same = [one for one in self.subjects if one.artifact.path == path]
        same = same or [one for one in self.subjects if one.name == path.name]
        if len(same) != 1:
            return None
        created = str(same[0].artifact.passport.get("created", ""))
        return None if date is not None and created > date else same[0]

    def score_of(self, subject: Subject) -> Scored | None:
        """Return an artifact's accuracy on :attr:`images`."""
        return next((one for one in self._comparable if self._owner(one) is subject), None)

    def score(self, engine: str, date: str | None = None) -> Scored | None:
        """Return the accuracy of an engine of a result on :attr:`images`.

        Args:
            engine: as in the result.
            date: of the result, where known.
        """
        if engine in ORIGINALS:
            return next((one for one in self._comparable if one.engine == KERAS), None)
        subject = self.subject(engine, date)
        return None if subject is None else self.score_of(subject)

    @property
    def _comparable(self) -> list[Scored]:
        return [one for one in self.scores if (one.data, one.images) == self.images]

    def _owner(self, one: Scored) -> Subject | None:
        return self.subject(one.engine, one.origin.date)

    def as_json(self) -> dict[str, Any]:
        """Return all of it as JSON values."""
        found: dict[str, Any] = {"report": 1, "title": self.title, "folder": str(self.folder)}
        found["artefacts"] = [
            {"name": one.name, "caution": one.caution, "passport": one.artifact.passport}
            for one in self.subjects
        ]
        lists = {
            "latency": self.benches,
            "accuracy": self.scores,
            "drift": self.drifts,
            "sensitivity": self.sensitivities,
            "not_shown": self.missed,
        }
        return found | {name: [_as_json(one) for one in each] for name, each in lists.items()}


def _as_json(one: Any) -> dict[str, Any]:
    values = asdict(one)
    for each in fields(one):
        if isinstance(getattr(one, each.name), Path):
            values[each.name] = str(values[each.name])
    return values
