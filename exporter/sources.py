"""Where a network comes from: the zoo, a ``.keras`` file or a SavedModel folder.

Files are not trusted: ``.keras`` is loaded in Keras' safe mode, and a Lambda layer (which
is code) is refused before Keras sees it, unless the user says ``--unsafe``.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from exporter.errors import ExporterError, WrongUse, unknown_name
from exporter.keras_env import load_keras
from exporter.models import checkpoint, zoo
from exporter.preprocessing import PREPROCESSING

RANDOM = "random"
_SCALING_LAYERS = ("Rescaling", "Normalization")


@dataclass(frozen=True)
class Port:
    """One input or output; ``shape`` has None for the batch, ``dtype`` is numpy's name."""

    name: str
    shape: tuple[int | None, ...]
    dtype: str


@dataclass(frozen=True)
class Source:
    """A loaded network and what is known about it.

    Attributes:
        name: how the user named it.
        kind: which of the three ways it came.
        weights: where the weights are from: "shipped", "random" or a file's path.
        sha256: of the file or folder; of the weights where they are random.
        call: takes and returns a tuple of tensors, in the order of the ports.
        model: the Keras model; the restored object for a SavedModel.
        layers: names of all layers, nested ones included.
        preprocessing: None where nobody said.
        classes: names by label; may be empty.
    """

    name: str
    kind: Literal["zoo", "keras", "savedmodel"]
    weights: str
    sha256: str
    call: Callable[[tuple[Any, ...]], tuple[Any, ...]]
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    model: Any
    layers: tuple[str, ...]
    preprocessing: str | None
    classes: tuple[str, ...]

    @property
    def is_keras(self) -> bool:
        """Whether weights can be fed from outside (a SavedModel holds its own)."""
        return self.kind != "savedmodel"


def load(
    name: str,
    *,
    weights: str | None = None,
    preprocessing: str | None = None,
    unsafe: bool = False,
) -> Source:
    """Load a network.

    Args:
        name: a zoo name, a ``.keras`` file or a SavedModel folder.
        weights: for a zoo name: a ``.keras`` file that ``exporter train`` wrote, or
            ``random``; default the shipped checkpoint.
        preprocessing: what the user says; must agree with what the file says.
        unsafe: run code that the file carries (Lambda layers).

    Raises:
        WrongUse: unknown name, missing file, a zoo model without weights, a Lambda layer,
            contradicting preprocessing.
        ExporterError: a damaged file.
    """
    if preprocessing is not None and preprocessing not in PREPROCESSING:
        raise unknown_name("preprocessing", preprocessing, PREPROCESSING)
    path = Path(name)
    if name in zoo.ZOO:
        return _from_zoo(name, weights, preprocessing, unsafe)
    if weights is not None:
        raise WrongUse("--weights goes with a zoo model; a file brings its own", hint=_zoo_hint())
    if path.suffix == ".keras":
        return _from_keras_file(path, name, "keras", preprocessing, unsafe)
    if (path / "saved_model.pb").is_file():
        return _from_saved_model(path, preprocessing)
    if path.exists():
        raise WrongUse(
            f"{name} is neither a .keras file nor a SavedModel folder",
            hint="save the model with model.save('model.keras') or model.export('folder')",
        )
    if path.suffix or path.name != name:
        raise WrongUse(f"no such file or folder: {name}")
    raise unknown_name("model", name, zoo.ZOO)


def _zoo_hint() -> str:
    return f"zoo models: {', '.join(zoo.ZOO)}"


def _from_zoo(name: str, weights: str | None, preprocessing: str | None, unsafe: bool) -> Source:
    row = zoo.lookup(name)
    if weights is None and row.checkpoint is None:
        raise WrongUse(
            f"{name} ships without trained weights",
            hint=f"train it with: exporter train {name} -o {name}.keras\n"
            f"then: exporter export {name} --weights {name}.keras\n"
            "or try the path with: --weights random",
        )
    if weights == RANDOM:
        _agree(zoo.PREPROCESSING, preprocessing, name)
        load_keras().utils.set_random_seed(0)
        return from_model(zoo.build(name), name)
    path = row.checkpoint if weights is None else Path(weights)
    assert path is not None
    source = _from_keras_file(path, name, "zoo", preprocessing, unsafe)
    expected = {layer.name for layer in zoo.build(name).layers if layer.weights}
    if expected != {layer.name for layer in source.model.layers if layer.weights}:
        raise WrongUse(f"{path} holds another network than {name}: its layers differ")
    return source


def from_model(model: Any, name: str) -> Source:
    """Wrap a zoo model that is in memory, with the weights it has."""
    weights = _weights_sha256(model)
    return _keras_source(model, name, "zoo", RANDOM, weights, zoo.PREPROCESSING, ())


def _from_keras_file(
    path: Path,
    name: str,
    kind: Literal["zoo", "keras"],
    preprocessing: str | None,
    unsafe: bool,
) -> Source:
    if not path.is_file():
        raise WrongUse(f"no such file: {path}")
    card = checkpoint.read_card(path)
    _refuse_code(path, unsafe)
    keras = load_keras()
    try:
        model = keras.models.load_model(path, compile=False, safe_mode=not unsafe)
    except Exception as error:  # Keras raises whatever its layers raise
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ExporterError(
            f"Keras can't load {path}: {first}",
            hint="the file is damaged, or needs a class that Keras does not know here",
        ) from error
    shipped = kind == "zoo" and path == zoo.lookup(name).checkpoint
    said = _agree(card.get("preprocessing") or _built_in_scaling(model), preprocessing, name)
    return _keras_source(
        model,
        name,
        kind,
        "shipped" if shipped else str(path),
        hashlib.sha256(path.read_bytes()).hexdigest(),
        said,
        tuple(card.get("classes", ())),
    )


def _keras_source(
    model: Any,
    name: str,
    kind: Literal["zoo", "keras"],
    weights: str,
    sha256: str,
    preprocessing: str | None,
    classes: tuple[str, ...],
) -> Source:
    if not model.built or not model.inputs:
        raise WrongUse(
            f"{name} has no fixed inputs", hint="call the model once on data before saving it"
        )

    def call(inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        import keras

        given = inputs[0] if len(inputs) == 1 else list(inputs)
        return tuple(keras.tree.flatten(model(given, training=False)))

    inputs = _ports(model.inputs, "input", [tensor.name for tensor in model.inputs])
    outputs = _ports(model.outputs, "logits", list(model.output_names))
    nested = [layer.name for layer in model._flatten_layers(include_self=False)]
    layers = tuple(dict.fromkeys([*nested, *(op.name for op in getattr(model, "operations", []))]))
    return Source(
        name, kind, weights, sha256, call, inputs, outputs, model, layers, preprocessing, classes
    )


def _ports(tensors: list[Any], single: str, names: list[str]) -> tuple[Port, ...]:
    """Name a lone tensor as the contract says; keep the user's names where there are several."""
    if len(tensors) == 1:
        names = [single]
    return tuple(
        Port(name, (None, *tuple(tensor.shape)[1:]), str(tensor.dtype))
        for name, tensor in zip(names, tensors, strict=True)
    )


def _from_saved_model(path: Path, preprocessing: str | None) -> Source:
    load_keras()
    import tensorflow as tf

    try:
        restored = tf.saved_model.load(str(path))
    except Exception as error:  # TensorFlow raises its own, untyped errors on damage
        raise ExporterError(f"TensorFlow can't load {path}: {error}") from error
    signature = restored.signatures.get("serving_default")
    if signature is None:
        raise WrongUse(
            f"{path} has no signature 'serving_default'",
            hint="write the folder with model.export(path)",
        )
    specs = signature.structured_input_signature[1]
    names = list(specs)
    results = dict(sorted(signature.structured_outputs.items()))

    def call(inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        given = signature(**dict(zip(names, inputs, strict=True)))
        return tuple(given[key] for key in results)

    return Source(
        str(path),
        "savedmodel",
        str(path),
        _folder_sha256(path),
        call,
        _tf_ports(specs, "input"),
        _tf_ports(results, "logits"),
        restored,
        (),
        preprocessing,
        (),
    )


def _tf_ports(specs: dict[str, Any], single: str) -> tuple[Port, ...]:
    return tuple(
        Port(
            single if len(specs) == 1 else name,
            (None, *tuple(spec.shape)[1:]),
            str(spec.dtype.as_numpy_dtype.__name__),
        )
        for name, spec in specs.items()
    )


def _folder_sha256(path: Path) -> str:
    digest = hashlib.sha256()
    for file in sorted(f for f in path.rglob("*") if f.is_file()):
        digest.update(str(file.relative_to(path)).encode() + b"\0")
        digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()


def _weights_sha256(model: Any) -> str:
    digest = hashlib.sha256()
    for array in model.get_weights():
        digest.update(array.tobytes())
    return digest.hexdigest()


def _refuse_code(path: Path, unsafe: bool) -> None:
    """Find Lambda layers in the archive's configuration, before anything is built from it."""
    try:
        with zipfile.ZipFile(path) as archive:
            config = json.loads(archive.read("config.json"))
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise ExporterError(f"{path} is not a readable .keras file: {error}") from error
    lambdas = [name for kind, name in _layer_configs(config) if kind == "Lambda"]
    if lambdas and not unsafe:
        raise WrongUse(
            f"{path} has a Lambda layer ({', '.join(lambdas)}), which is code that would run here",
            hint="if you trust where the file came from, repeat with --unsafe",
        )


def _layer_configs(node: Any) -> Iterator[tuple[str, str]]:
    """Walk a Keras configuration; yield (class name, layer name) of all that has a class."""
    if isinstance(node, dict):
        if isinstance(node.get("class_name"), str):
            config = node.get("config")
            name = config.get("name") if isinstance(config, dict) else None
            yield node["class_name"], str(name)
        for value in node.values():
            yield from _layer_configs(value)
    elif isinstance(node, list):
        for value in node:
            yield from _layer_configs(value)


def _built_in_scaling(model: Any) -> str | None:
    """Return ``raw`` for a model whose first layer after the input scales pixels itself."""
    layers = [layer for layer in model.layers if type(layer).__name__ != "InputLayer"]
    return "raw" if layers and type(layers[0]).__name__ in _SCALING_LAYERS else None


def _agree(carried: str | None, said: str | None, name: str) -> str | None:
    if carried is not None and said is not None and carried != said:
        raise WrongUse(
            f"{name} was trained with preprocessing {carried!r}, and --preprocess says {said!r}",
            hint="leave --preprocess out",
        )
    return carried or said
