"""Load a network from the zoo, a Keras file or a SavedModel folder."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from exporter.config import NO_CODE, InputSize, Trust
from exporter.errors import WrongUse, unknown_name
from exporter.models import checkpoint, zoo
from exporter.models.preprocessing import PREPROCESSING
from exporter.network import expectations, keras_file, saved_model
from exporter.network.expectations import UNKNOWN, Meaning
from exporter.network.keras_env import load_keras

RANDOM = "random"
SourceKind = Literal["zoo", "keras", "savedmodel", "live"]


@dataclass(frozen=True)
class Port:
    """One input or output.

    Attributes:
        name: its name in the graph.
        shape: its shape; open dimensions are None.
        dtype: numpy's name of its type.
        meaning: what it stands for, as far as known.
    """

    name: str
    shape: tuple[int | None, ...]
    dtype: str
    meaning: Meaning = UNKNOWN

    @property
    def open_dimensions(self) -> tuple[int, ...]:
        """The axes with an open size, besides the batch."""
        return tuple(axis for axis, size in enumerate(self.shape) if axis and size is None)


@dataclass(frozen=True)
class Source:
    """A loaded network and what is known about it.

    Attributes:
        name: the name that the user gave.
        kind: the kind of source.
        weights: source of the weights: "shipped", "random" or a file's path.
        sha256: hash of the file or folder, or of the weights if they are random.
        call: takes and returns a tuple of tensors, in the order of the ports.
        pack: converts a tuple of tensors to the structure that the model itself takes.
        model: the Keras model; the restored object for a SavedModel.
        layers: names of all layers, including nested ones.
        preprocessing: name of the preprocessing; None if unknown.
        classes: class names by label; may be empty.
        size: the sizes of open dimensions, if some are open.
    """

    name: str
    kind: SourceKind
    weights: str
    sha256: str
    call: Callable[[tuple[Any, ...]], tuple[Any, ...]]
    pack: Callable[[tuple[Any, ...]], Any]
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    model: Any
    layers: tuple[str, ...]
    preprocessing: str | None
    classes: tuple[str, ...]
    size: InputSize | None = None

    @property
    def is_keras(self) -> bool:
        """Whether weights can be fed as inputs. A SavedModel contains its own."""
        return self.kind != "savedmodel"

    @property
    def is_ours(self) -> bool:
        """Whether its weights are the zoo's. Weights in a file may be trained on other images."""
        return self.kind == "zoo" and self.weights in ("shipped", RANDOM)

    @property
    def batch(self) -> int | None:
        """The network's fixed batch size; None if it is open."""
        return self.inputs[0].shape[0]


def load(
    name: str,
    *,
    weights: str | None = None,
    preprocessing: str | None = None,
    trust: Trust = NO_CODE,
) -> Source:
    """Load a network.

    Args:
        name: a zoo name, a ``.keras``, ``.h5`` or ``.hdf5`` file, or a SavedModel folder.
        weights: for a zoo name: a ``.keras`` file written by ``exporter train``, or ``random``.
            The default is the shipped checkpoint.
        preprocessing: the user's choice; must agree with the file's, if any.
        trust: the code that we may run to load it.

    Raises:
        WrongUse: unknown name, missing file, a zoo model without weights, a Lambda layer,
            a class that is not loaded, or contradictory preprocessing.
        ExporterError: the file is damaged.
    """
    if preprocessing is not None and preprocessing not in PREPROCESSING:
        raise unknown_name("preprocessing", preprocessing, PREPROCESSING)
    path = Path(name)
    if name in zoo.ZOO:
        return _from_zoo(name, weights, preprocessing, trust)
    if weights is not None:
        raise WrongUse(
            "--weights works only with a zoo model; a file has its own weights", hint=_zoo_hint()
        )
    if path.suffix in keras_file.SUFFIXES:
        return _from_keras_file(path, name, "keras", preprocessing, trust)
    if (path / "saved_model.pb").is_file():
        return _from_saved_model(path, preprocessing)
    if path.exists():
        suffixes = ", ".join(keras_file.SUFFIXES)
        raise WrongUse(
            f"{name} is neither a Keras file ({suffixes}) nor a SavedModel folder",
            hint="save the model with model.save('model.keras') or model.export('folder')",
        )
    if path.suffix or path.name != name:
        raise WrongUse(f"no such file or folder: {name}")
    raise unknown_name("model", name, zoo.ZOO)


def _zoo_hint() -> str:
    return f"zoo models: {', '.join(zoo.ZOO)}"


def _from_zoo(name: str, weights: str | None, preprocessing: str | None, trust: Trust) -> Source:
    row = zoo.lookup(name)
    if weights is None and row.checkpoint is None:
        raise WrongUse(
            f"{name} has no shipped weights",
            hint=f"train it with: exporter train {name} -o {name}.keras\n"
            f"then: exporter export {name} --weights {name}.keras\n"
            "or try the export with: --weights random",
        )
    if weights == RANDOM:
        _agree(zoo.PREPROCESSING, preprocessing, name)
        load_keras().utils.set_random_seed(0)
        return from_model(zoo.build(name), name)
    path = row.checkpoint if weights is None else Path(weights)
    assert path is not None
    source = _from_keras_file(path, name, "zoo", preprocessing, trust)
    if _kernels(source.model) != _kernels(zoo.build(name)):
        raise WrongUse(f"{path} contains another network than {name}: its layers differ")
    return source


def _kernels(model: Any) -> dict[str, tuple[int, ...]]:
    """Return the shapes that tell networks apart, without those that depend on the data."""
    return {
        variable.path: tuple(variable.shape)
        for variable in model.trainable_variables
        if not variable.path.startswith(("stem_conv/", "logits/"))
    }


def from_model(model: Any, name: str) -> Source:
    """Wrap a zoo model that is already in memory, with its current weights."""
    weights = weights_sha256(model)
    return wrap(model, name, "zoo", RANDOM, weights, zoo.PREPROCESSING)


def from_live(model: Any, preprocessing: str | None = None) -> Source:
    """Wrap the user's own model in memory.

    Raises:
        WrongUse: the preprocessing contradicts the scaling inside, or the model never saw data.
        Missing: Keras runs on another backend than TensorFlow.
    """
    load_keras()
    name = str(model.name)
    carried = _agree(expectations.pixels_expected(model), preprocessing, name)
    return wrap(model, name, "live", "in memory", weights_sha256(model), carried)


def _from_keras_file(
    path: Path,
    name: str,
    kind: Literal["zoo", "keras"],
    preprocessing: str | None,
    trust: Trust,
) -> Source:
    if not path.is_file():
        raise WrongUse(f"no such file: {path}")
    card = checkpoint.read_card(path) if path.suffix == ".keras" else {}
    model = keras_file.load(path, trust)
    shipped = kind == "zoo" and path == zoo.lookup(name).checkpoint
    carried = card.get("preprocessing") or expectations.pixels_expected(model)
    return wrap(
        model,
        name,
        kind,
        "shipped" if shipped else str(path),
        hashlib.sha256(path.read_bytes()).hexdigest(),
        _agree(carried, preprocessing, name),
        tuple(card.get("classes", ())),
    )


def wrap(
    model: Any,
    name: str,
    kind: SourceKind,
    weights: str,
    sha256: str,
    preprocessing: str | None = None,
    classes: tuple[str, ...] = (),
) -> Source:
    """Wrap a Keras model in memory. The arguments are as in :class:`Source`.

    Raises:
        WrongUse: the model has never seen data, so its inputs are unknown.
    """
    import keras

    taken_in = _inputs_of(model, name)
    tensors = keras.tree.flatten(taken_in)

    def pack(inputs: tuple[Any, ...]) -> Any:
        return keras.tree.pack_sequence_as(taken_in, list(inputs))

    def call(inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple(keras.tree.flatten(model(pack(inputs), training=False)))

    returned = _outputs_of(model, taken_in)
    inputs = _ports("input", _described(tensors, [tensor.name for tensor in tensors]))
    known = expectations.meanings(model, tensors)
    inputs = tuple(replace(port, meaning=one) for port, one in zip(inputs, known, strict=True))
    taken = [port.name for port in inputs]
    nested = [layer.name for layer in model._flatten_layers(include_self=False)]
    operations = [operation.name for operation in getattr(model, "operations", [])]
    return Source(
        name=name,
        kind=kind,
        weights=weights,
        sha256=sha256,
        call=call,
        pack=pack,
        inputs=inputs,
        outputs=_ports("logits", _described(*returned, taken)),
        model=model,
        layers=tuple(dict.fromkeys([*nested, *operations])),
        preprocessing=preprocessing,
        classes=classes,
    )


def _inputs_of(model: Any, name: str) -> Any:
    """Return the tensors that a model takes, in its own structure.

    A subclassed model has no inputs of its own, but remembers the shapes that it was built for.
    """
    import keras

    structure = getattr(model, "_inputs_struct", None)
    if structure is not None:
        return structure
    if model.built and getattr(model, "inputs", None):
        return model.inputs[0] if len(model.inputs) == 1 else model.inputs
    shapes = (model.get_build_config() or {}).get("input_shape") if model.built else None
    if shapes is None:
        raise WrongUse(
            f"{name} has no fixed inputs", hint="call the model once on data before saving it"
        )
    return keras.tree.map_shape_structure(
        lambda shape: keras.KerasTensor((None, *shape[1:]), model.input_dtype), shapes
    )


def _outputs_of(model: Any, inputs: Any) -> tuple[list[Any], list[str]]:
    """Return the tensors that a model makes, and their names.

    The name is the key in a dictionary of outputs, or else the layer's.
    """
    import keras

    known = getattr(model, "outputs", None)
    structure = getattr(model, "_outputs_struct", known)
    if structure is None:
        structure = model.compute_output_spec(inputs, training=False)
    keyed = keras.tree.flatten_with_path(structure)
    tensors = [tensor for _, tensor in keyed]
    if all(isinstance(part, str) for path, _ in keyed for part in path) and keyed[0][0]:
        return tensors, ["/".join(path) for path, _ in keyed]
    if known is None:
        return tensors, [f"output_{index}" for index in range(len(tensors))]
    names = getattr(model, "output_names", None)  # a Sequential has no list of them
    return tensors, list(names or [x._keras_history.operation.name for x in tensors])


def _described(
    tensors: list[Any], names: list[str], taken: Sequence[str] = ()
) -> dict[str, tuple[Any, str]]:
    """Return shape and type by name. A name that is used already gets the next free number."""
    found: dict[str, tuple[Any, str]] = {}
    for name, tensor in zip(names, tensors, strict=True):
        numbered = (f"{name}_{number}" for number in itertools.count(1))
        unique = next(n for n in numbered if not {n} & {*names, *taken, *found})
        used = name in found or name in taken
        found[unique if used else name] = (tensor.shape, str(tensor.dtype))
    return found


def _from_saved_model(path: Path, preprocessing: str | None) -> Source:
    call, inputs, outputs, restored = saved_model.load(path)
    return Source(
        name=str(path),
        kind="savedmodel",
        weights=str(path),
        sha256=saved_model.sha256(path),
        call=call,
        pack=lambda inputs: inputs,
        inputs=_ports(
            "input", {name: (spec.shape, spec.dtype.name) for name, spec in inputs.items()}
        ),
        outputs=_ports(
            "logits", {name: (spec.shape, spec.dtype.name) for name, spec in outputs.items()}
        ),
        model=restored,
        layers=(),
        preprocessing=preprocessing,
        classes=(),
    )


def _ports(single: str, found: dict[str, tuple[Any, str]]) -> tuple[Port, ...]:
    """Name a lone tensor ``single``, as the documentation says. Several keep their names."""
    return tuple(
        Port(single if len(found) == 1 else name, tuple(shape), dtype)
        for name, (shape, dtype) in found.items()
    )


def weights_sha256(model: Any) -> str:
    """Hash all weights of a Keras model, in its order."""
    digest = hashlib.sha256()
    for array in model.get_weights():
        digest.update(array.tobytes())
    return digest.hexdigest()


def _agree(carried: str | None, said: str | None, name: str) -> str | None:
    if carried is not None and said is not None and carried != said:
        raise WrongUse(
            f"{name} was trained with preprocessing {carried!r}, but --preprocess is {said!r}",
            hint="leave --preprocess out",
        )
    return carried or said
