"""What the user asked for, validated once at the edge and never changed after."""

from __future__ import annotations

import re
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, get_args

from exporter.errors import WrongUse, unknown_name

Precision = Literal["fp32", "fp16", "bf16", "int8", "fp8"]
QUANTIZED: tuple[Precision, ...] = ("int8", "fp8")
"""Precisions that are written as Q/DQ, by a scheme and from a calibration."""
Layout = Literal["nhwc", "nchw"]
FloatType = Literal["fp32", "fp16"]
SchemeName = Literal["tensorrt", "cpu", "fp8"]
Calibrator = Literal["entropy", "mse", "percentile", "minmax"]
RecoveryName = Literal["equalize", "rounding", "bias"]
# Which precision a scheme of Q/DQ belongs to.
PRECISION_OF: dict[SchemeName, Precision] = {"tensorrt": "int8", "cpu": "int8", "fp8": "fp8"}
WeightBits = Literal[7, 8]


@dataclass(frozen=True)
class Batch:
    """Batch sizes an artifact accepts: one fixed size, or a range with its usual value."""

    minimum: int = 1
    usual: int = 1
    maximum: int | None = None

    @classmethod
    def parse(cls, text: str) -> Batch:
        """Read ``N`` (fixed) or ``MIN:OPT:MAX``.

        Raises:
            WrongUse: not of this form, or not 1 <= MIN <= OPT <= MAX.
        """
        try:
            numbers = [int(part) for part in text.split(":")]
        except ValueError:
            numbers = []
        if len(numbers) == 1:
            numbers *= 3
        if len(numbers) != 3 or not 1 <= numbers[0] <= numbers[1] <= numbers[2]:
            raise WrongUse(f"bad batch {text!r}", hint="give N or MIN:OPT:MAX, such as 1 or 1:8:32")
        return cls(*numbers)

    @property
    def fixed(self) -> int | None:
        """The one size, or None where the batch is open."""
        return self.minimum if self.minimum == self.maximum else None


@dataclass(frozen=True)
class BuildOptions:
    """How an engine is built; None, False and () leave it to the builder.

    Attributes:
        workspace_mib: scratch memory a layer may use at most, in MiB.
        opt_level: builder optimization level, 0 (quick build) to 5 (longest search).
        hardware_compatible: one engine for every GPU from Ampere on.
        version_compatible: an engine for later TensorRT releases of the same major version.
        dla_core: build for this DLA core; what can't run there runs on the GPU.
        compute_capabilities: GPUs to compile for with none here, such as ``8.6``.
        tf32: let FP32 products round their factors to TF32, which has 10 bits of mantissa.
        allow_fallback: let nodes that a provider declines run on the CPU.
    """

    workspace_mib: int | None = None
    opt_level: int | None = None
    hardware_compatible: bool = False
    version_compatible: bool = False
    dla_core: int | None = None
    compute_capabilities: tuple[str, ...] = ()
    tf32: bool = False
    allow_fallback: bool = False

    def __post_init__(self) -> None:
        """Refuse values that no builder takes."""
        if self.workspace_mib is not None and self.workspace_mib < 1:
            raise WrongUse(f"workspace must be at least 1 MiB, not {self.workspace_mib}")
        if self.opt_level is not None and not 0 <= self.opt_level <= 5:
            raise WrongUse(f"opt-level must be 0 to 5, not {self.opt_level}")
        if self.dla_core is not None and self.dla_core < 0:
            raise WrongUse(f"dla-core must be at least 0, not {self.dla_core}")
        for capability in self.compute_capabilities:
            if not re.fullmatch(r"\d+\.\d", capability):
                raise WrongUse(f"bad compute capability {capability!r}", hint="such as 8.6")

    @property
    def asked(self) -> tuple[str, ...]:
        """Names of the fields that say something."""
        return tuple(
            field.name for field in fields(self) if getattr(self, field.name) != field.default
        )

    def over(self, other: BuildOptions) -> BuildOptions:
        """Return the other options, with those that these say something of in their place."""
        return replace(other, **{name: getattr(self, name) for name in self.asked})

    def as_json(self) -> dict[str, Any]:
        """Return what is asked for as JSON values."""
        values = {name: getattr(self, name) for name in self.asked}
        return {n: list(v) if isinstance(v, tuple) else v for n, v in values.items()}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> BuildOptions:
        """Read what :meth:`as_json` wrote."""
        capabilities = tuple(values.get("compute_capabilities", ()))
        return cls(**{**values, "compute_capabilities": capabilities})


@dataclass(frozen=True)
class ExportConfig:
    """One export.

    Attributes:
        model: zoo name, ``.keras`` file or SavedModel folder.
        target: a key of :data:`exporter.targets.TARGETS`.
        output: the artifact's folder; must not exist unless ``force``.
        precision: of the arithmetic.
        weights: for a zoo model: a file, or ``random``; None for the shipped checkpoint.
        data: test images to compare with Keras on, and training images to measure on; None means
            Fashion-MNIST, of a network that is not the zoo's own only to compare, where it fits.
        batch: accepted batch sizes; open by default.
        layout: of a four-dimensional input.
        preprocess: for a model that does not carry its preprocessing.
        check_images: how many images the graph must agree with Keras on to be accepted.
        scheme: of INT8; None for the target's own. FP8 has one of its own.
        weight_bits: of INT8's weights; 7, under scheme ``cpu`` alone, for CPUs without VNNI. None
            for what this machine's CPU sums without saturating.
        calibrator: how ranges of INT8 and FP8 are chosen.
        calibration_images: how many training images they are measured on; ``auto``: until no
            range changes any more.
        calibration: a ``calibration.json`` to use instead of measuring.
        recovery: of accuracy, for INT8 and FP8, by :data:`exporter.precision.recovery.METHODS`;
            run in that
            order. None for what pays (:func:`exporter.precision.recovery.chosen`), () for nothing.
        max_drop: for INT8 and FP8: most points of top-1 to lose against the float graph, on
            held-out training images; layers stay in float until it holds. None: no budget.
        held_out_images: how many those are.
        rest: type of what INT8 and FP8 leave in floating point; None for the scheme's or the
            target's own.
        io: type of the graph's inputs and outputs; FP16 only where the graph has FP16.
        build: how an engine is built, for targets that build one.
        unsafe: run code in the model file (Lambda layers).
        force: replace an existing artifact.
    """

    model: str
    target: str
    output: Path
    precision: Precision = "fp32"
    weights: str | None = None
    data: str | None = None
    batch: Batch = Batch()
    layout: Layout = "nhwc"
    preprocess: str | None = None
    check_images: int = 64
    scheme: SchemeName | None = None
    weight_bits: WeightBits | None = None
    calibrator: Calibrator = "mse"
    calibration_images: int | Literal["auto"] = 512
    calibration: Path | None = None
    recovery: tuple[RecoveryName, ...] | None = None
    max_drop: float | None = None
    held_out_images: int = 2000
    rest: FloatType | None = None
    io: FloatType = "fp32"
    build: BuildOptions = BuildOptions()
    unsafe: bool = False
    force: bool = False

    def __post_init__(self) -> None:
        """Refuse values that no target could serve."""
        if self.check_images < 1:
            raise WrongUse(f"check-images must be at least 1, not {self.check_images}")
        count = self.calibration_images
        if count != "auto" and (isinstance(count, str) or count < 1):
            raise WrongUse(f"calibration-images must be auto or at least 1, not {count}")
        if self.max_drop is not None:
            self._check_max_drop(self.max_drop)
        if self.held_out_images < 1:
            raise WrongUse(f"held-out-images must be at least 1, not {self.held_out_images}")
        for option, given in (
            ("calibration", self.calibration),
            ("recovery", self.recovery),
            ("rest", self.rest),
        ):
            if given and not self.is_quantized:
                raise WrongUse(
                    f"--{option} is for INT8 and FP8, and --precision is {self.precision}"
                )
        self._check_scheme()
        if self.weight_bits not in (None, 7, 8):
            raise WrongUse(f"weight-bits must be 7 or 8, not {self.weight_bits}")
        if self.precision != "int8" and self.weight_bits:
            raise WrongUse(f"--weight-bits is for INT8, and --precision is {self.precision}")
        for name in self.recovery or ():
            if name not in get_args(RecoveryName):
                raise unknown_name("recovery", name, ("auto", "none", *get_args(RecoveryName)))
        float32 = self.precision == "fp32" or self.rest == "fp32"
        if self.io == "fp16" and float32:
            asked = "--precision fp32" if self.precision == "fp32" else "--rest fp32"
            raise WrongUse(f"--io fp16 and {asked} contradict each other")

    @property
    def is_quantized(self) -> bool:
        """Whether the graph gets Q/DQ."""
        return self.precision in QUANTIZED

    def _check_scheme(self) -> None:
        if self.scheme is None:
            return
        if self.scheme not in PRECISION_OF:
            raise unknown_name("scheme", self.scheme, PRECISION_OF)
        owner = PRECISION_OF[self.scheme]
        if owner != self.precision:
            raise WrongUse(
                f"--scheme {self.scheme} is for {owner.upper()}, and --precision is "
                f"{self.precision}"
            )

    def _check_max_drop(self, points: float) -> None:
        if not self.is_quantized:
            raise WrongUse(f"--max-drop is for INT8 and FP8, and --precision is {self.precision}")
        if not 0 <= points <= 100:  # NaN is neither
            raise WrongUse(f"max-drop is points of top-1, 0 to 100, not {points}")
