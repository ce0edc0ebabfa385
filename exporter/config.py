"""What the user asked for: validated once at the edge, and never changed after that."""

from __future__ import annotations

import functools
import itertools
import re
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar, get_args

from exporter.errors import WrongUse, unknown_name

Precision = Literal["fp32", "fp16", "bf16", "int8", "fp8"]
QUANTIZED: tuple[Precision, ...] = ("int8", "fp8")
"""Precisions that need a calibration and put Q/DQ into the graph."""
Layout = Literal["nhwc", "nchw"]
FloatType = Literal["fp32", "fp16"]
SchemeName = Literal["tensorrt", "cpu", "fp8"]
Calibrator = Literal["entropy", "mse", "percentile", "minmax"]
RecoveryName = Literal["equalize", "rounding", "bias"]
# The precision that each scheme of Q/DQ belongs to.
PRECISION_OF: dict[SchemeName, Precision] = {"tensorrt": "int8", "cpu": "int8", "fp8": "fp8"}
WeightBits = Literal[7, 8]


@dataclass(frozen=True)
class Batch:
    """The batch sizes that an artifact accepts: one fixed size, or a range with its usual value."""

    minimum: int = 1
    usual: int = 1
    maximum: int | None = None

    @classmethod
    def parse(cls, text: str) -> Batch:
        """Read ``N`` (fixed) or ``MIN:OPT:MAX``.

        Raises:
            WrongUse: the text has another form, or 1 <= MIN <= OPT <= MAX does not hold.
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
        """The one size, or None if the batch is open."""
        return self.minimum if self.minimum == self.maximum else None


@dataclass(frozen=True)
class InputSize:
    """The sizes that open dimensions may have, without the batch: one, or a range.

    Attributes:
        minimum: the smallest size of each open dimension, such as (height, width).
        usual: the size to build and measure for.
        maximum: the largest; None if there is no limit.
    """

    minimum: tuple[int, ...]
    usual: tuple[int, ...]
    maximum: tuple[int, ...] | None

    @classmethod
    def parse(cls, text: str) -> InputSize:
        """Read ``HxW`` (fixed) or ``HxW:HxW:HxW`` (smallest, usual, largest); ``L`` for lengths.

        Raises:
            WrongUse: the text has another form, or the sizes are not in order.
        """
        try:
            sizes = [tuple(int(n) for n in part.split("x")) for part in text.split(":")]
        except ValueError:
            sizes = []
        if len(sizes) == 1:
            sizes *= 3
        if len(sizes) != 3 or not all(
            1 <= low <= usual <= high
            for low, usual, high in itertools.zip_longest(*sizes, fillvalue=0)
        ):
            raise WrongUse(
                f"bad input size {text!r}",
                hint="give one size, such as 224x224, or the smallest, the usual and the largest: "
                "64x64:224x224:512x512",
            )
        return cls(*sizes)

    @property
    def is_fixed(self) -> bool:
        """Whether it is one size."""
        return self.minimum == self.maximum

    def repeated(self, count: int) -> InputSize:
        """Return the same sizes for another number of open dimensions."""
        largest = None if self.maximum is None else self.maximum[:1] * count
        return InputSize(self.minimum[:1] * count, self.usual[:1] * count, largest)

    def __str__(self) -> str:
        """Return the text that :meth:`parse` reads."""
        sizes = (self.usual,) if self.is_fixed else (self.minimum, self.usual, self.maximum or ())
        return ":".join("x".join(map(str, size)) for size in sizes)


@dataclass(frozen=True)
class BuildOptions:
    """How to build an engine. None, False and () leave the choice to the builder.

    Attributes:
        workspace_mib: the most scratch memory that a layer may use, in MiB.
        opt_level: the builder's optimization level, from 0 (quick build) to 5 (longest search).
        hardware_compatible: build one engine for every GPU from Ampere on.
        version_compatible: build an engine that later TensorRT releases of the same major version
            can load too.
        dla_core: build for this DLA core. Layers that can't run there run on the GPU.
        compute_capabilities: the GPUs to compile for, such as ``8.6``, when none is here.
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
        """Refuse values that no builder accepts."""
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
        """The names of the fields that the user set."""
        return tuple(
            field.name for field in fields(self) if getattr(self, field.name) != field.default
        )

    def over(self, other: BuildOptions) -> BuildOptions:
        """Return ``other``, with the fields that are set here in place of its own."""
        return replace(other, **{name: getattr(self, name) for name in self.asked})

    def as_json(self) -> dict[str, Any]:
        """Return the fields that the user set, as JSON values."""
        values = {name: getattr(self, name) for name in self.asked}
        return {n: list(v) if isinstance(v, tuple) else v for n, v in values.items()}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> BuildOptions:
        """Read what :meth:`as_json` wrote."""
        capabilities = tuple(values.get("compute_capabilities", ()))
        return cls(**{**values, "compute_capabilities": capabilities})


@dataclass(frozen=True)
class Calibration:
    """Where the ranges of INT8 and FP8 come from.

    Attributes:
        calibrator: the method that chooses a range from what was observed.
        images: how many training images to measure on. ``auto`` goes on until no range changes
            any more. FP16 measures on as many.
        file: a ``calibration.json`` to use instead of measuring.
    """

    calibrator: Calibrator = "mse"
    images: int | Literal["auto"] = 512
    file: Path | None = None

    def __post_init__(self) -> None:
        """Refuse a count that can't be."""
        if self.images != "auto" and (isinstance(self.images, str) or self.images < 1):
            raise WrongUse(f"calibration-images must be auto or at least 1, not {self.images}")


@dataclass(frozen=True)
class Int8:
    """How to quantize to INT8 or FP8.

    Attributes:
        scheme: where Q/DQ go. None takes the target's own. FP8 has one scheme only.
        weight_bits: 7 or 8, for INT8. 7 is for CPUs without VNNI, under scheme ``cpu`` only. None
            takes what this machine's CPU can sum without saturating.
        recovery: the methods that win accuracy back, of
            :data:`exporter.precision.recovery.METHODS`, which is also their order. None takes the
            ones that pay (:func:`exporter.precision.recovery.chosen`), and () none.
        max_drop: the most points of top-1 to lose against the float graph, on held-out training
            images. Layers stay in float until this holds. None sets no budget.
        held_out_images: how many training images to hold out for ``max_drop``.
        rest: the type of everything that stays in floating point. None takes the scheme's or the
            target's own.
    """

    scheme: SchemeName | None = None
    weight_bits: WeightBits | None = None
    recovery: tuple[RecoveryName, ...] | None = None
    max_drop: float | None = None
    held_out_images: int = 2000
    rest: FloatType | None = None

    def __post_init__(self) -> None:
        """Refuse values that make no sense for any precision."""
        if self.scheme is not None and self.scheme not in PRECISION_OF:
            raise unknown_name("scheme", self.scheme, PRECISION_OF)
        if self.weight_bits not in (None, 7, 8):
            raise WrongUse(f"weight-bits must be 7 or 8, not {self.weight_bits}")
        for name in self.recovery or ():
            if name not in get_args(RecoveryName):
                raise unknown_name("recovery", name, ("auto", "none", *get_args(RecoveryName)))
        if self.max_drop is not None and not 0 <= self.max_drop <= 100:  # NaN is neither
            raise WrongUse(f"max-drop is points of top-1, 0 to 100, not {self.max_drop}")
        if self.held_out_images < 1:
            raise WrongUse(f"held-out-images must be at least 1, not {self.held_out_images}")


class Given(Protocol):
    """Data that the user has in Python: see :func:`exporter.data.samples.gather`."""

    def part(self, split: Literal["train", "test"]) -> Any:
        """Return the samples to measure on, or those to compare and evaluate on."""


@dataclass(frozen=True)
class Trust:
    """The code that we may run to load a network. By default none.

    Attributes:
        unsafe: run the code in the model file (Lambda layers).
        imports: modules or ``.py`` files with the user's own classes, to import in this order.
    """

    unsafe: bool = False
    imports: tuple[str, ...] = ()


NO_CODE = Trust()


_GROUPS = {"calibration": Calibration, "int8": Int8, "build": BuildOptions, "trust": Trust}
_FLAT = {
    "calibrator": ("calibration", "calibrator"),
    "calibration_images": ("calibration", "images"),
    **{field.name: ("int8", field.name) for field in fields(Int8)},
    **{field.name: ("build", field.name) for field in fields(BuildOptions)},
    **{field.name: ("trust", field.name) for field in fields(Trust)},
}
Config = TypeVar("Config")


def _accepting_flat(config: type[Config]) -> type[Config]:
    """Let a constructor also take the fields of its groups, as in ``ExportConfig(max_drop=0.2)``.

    A flat field wins over the same field of a group. A path as ``calibration`` is its file.
    """
    init = config.__init__

    @functools.wraps(init)
    def accept(self: Config, *args: Any, **options: Any) -> None:
        given: dict[str, dict[str, Any]] = {name: {} for name in _GROUPS}
        for name in _FLAT.keys() & options.keys():
            group, field = _FLAT[name]
            given[group][field] = options.pop(name)
        if not isinstance(options.get("calibration", Calibration()), Calibration):
            given["calibration"]["file"] = options.pop("calibration")
        for group, values in given.items():
            if values:
                options[group] = replace(options.get(group, _GROUPS[group]()), **values)
        init(self, *args, **options)

    config.__init__ = accept  # type: ignore[assignment,method-assign]
    return config


@_accepting_flat
@dataclass(frozen=True)
class ExportConfig:
    """One export.

    The constructor takes the fields of the groups by themselves too:
    ``ExportConfig("resnet18", "ort", path, precision="int8", max_drop=0.2)``. There,
    ``calibration_images`` is ``calibration.images``, and a path as ``calibration`` is its file.

    Attributes:
        model: a zoo name, a ``.keras``, ``.h5`` or ``.hdf5`` file, or a SavedModel folder.
        target: a key of :data:`exporter.targets.TARGETS`.
        output: the artifact's folder. It must not exist unless ``force`` is set.
        precision: the precision of the arithmetic.
        weights: for a zoo model, a file or ``random``. None takes the shipped checkpoint.
        data: the data set, or data from Python. We compare with Keras on its test images, and
            measure on its training images. None takes Fashion-MNIST: for a zoo network with our
            weights, and, if it fits, to compare any other network.
        batch: the batch sizes to accept. By default any.
        input_size: the size of images (or other inputs) if the network takes any: fixed or a range.
        layout: of a four-dimensional input.
        preprocess: the preprocessing, for a model that does not carry its own.
        check_images: how many images the graph must agree with Keras on.
        io: the type of the graph's inputs and outputs. FP16 needs a graph that has FP16.
        calibration: where the ranges of INT8 and FP8 come from.
        int8: how to quantize to INT8 or FP8.
        build: how to build an engine, for targets that build one.
        trust: the code that we may run to load the network.
        force: replace an existing artifact.
    """

    model: str
    target: str
    output: Path
    precision: Precision = "fp32"
    weights: str | None = None
    data: str | Given | None = None
    batch: Batch = Batch()
    input_size: InputSize | None = None
    layout: Layout = "nhwc"
    preprocess: str | None = None
    check_images: int = 64
    io: FloatType = "fp32"
    calibration: Calibration = Calibration()
    int8: Int8 = Int8()
    build: BuildOptions = BuildOptions()
    trust: Trust = Trust()
    force: bool = False

    if not TYPE_CHECKING:  # typed code reads the groups

        def __getattr__(self, name: str) -> Any:
            """Return a flat field from its group."""
            if name not in _FLAT:
                raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
            group, field = _FLAT[name]
            return getattr(getattr(self, group), field)

    def __post_init__(self) -> None:
        """Refuse values that no target could serve."""
        if self.check_images < 1:
            raise WrongUse(f"check-images must be at least 1, not {self.check_images}")
        for option, given in (
            ("max-drop", self.int8.max_drop is not None),
            ("calibration", self.calibration.file),
            ("recovery", self.int8.recovery),
            ("rest", self.int8.rest),
        ):
            if given and not self.is_quantized:
                raise WrongUse(
                    f"--{option} is for INT8 and FP8, and --precision is {self.precision}"
                )
        scheme = self.int8.scheme
        if scheme is not None and PRECISION_OF[scheme] != self.precision:
            owner = PRECISION_OF[scheme].upper()
            raise WrongUse(f"--scheme {scheme} is for {owner}, and --precision is {self.precision}")
        if self.precision != "int8" and self.int8.weight_bits:
            raise WrongUse(f"--weight-bits is for INT8, and --precision is {self.precision}")
        float32 = self.precision == "fp32" or self.int8.rest == "fp32"
        if self.io == "fp16" and float32:
            asked = "--precision fp32" if self.precision == "fp32" else "--rest fp32"
            raise WrongUse(f"--io fp16 and {asked} contradict each other")

    @property
    def is_quantized(self) -> bool:
        """Whether the graph gets Q/DQ."""
        return self.precision in QUANTIZED
