"""Small checkpoints: a plain ``.keras`` file with kernels in half precision.

Keras automatically reads half-precision weights into its float32 variables. So such a file loads
with ``keras.models.load_model`` anywhere, at half the size. Vectors (biases, batch-norm
statistics) stay float32: they are small, and a variance below 6e-8 would become zero in half
precision.

The archive has one more member, ``exporter.json``, with the preprocessing and the class names.
They belong to the model, but Keras has no place for them.
"""

from __future__ import annotations

import json
import os
import tempfile
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from exporter.errors import ExporterError
from exporter.models.preprocessing import PREPROCESSING
from exporter.untrusted import read_json

if TYPE_CHECKING:
    import keras

_WEIGHTS = "model.weights.h5"
_CARD = "exporter.json"
_EPOCH = (1980, 1, 1, 0, 0, 0)  # zip's earliest date, so that the same weights give the same bytes


def save_half(model: keras.Model, path: Path, card: dict[str, Any]) -> None:
    """Write a model without its optimizer and with kernels in float16, completely or not at all.

    Args:
        model: any model of stock layers.
        path: ends in ``.keras``.
        card: the dictionary that :func:`read_card` returns later.
    """
    import h5py

    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".saving-") as folder:
        full, small = Path(folder, "full.keras"), Path(folder, "small.keras")
        model.save(full)
        with zipfile.ZipFile(full) as source, zipfile.ZipFile(small, "w") as target:
            for member in sorted(source.namelist()):
                data = source.read(member)
                if member == _WEIGHTS:
                    h5 = Path(folder, _WEIGHTS)
                    h5.write_bytes(data)
                    _halve(h5, Path(folder, "half.h5"), h5py)
                    data = Path(folder, "half.h5").read_bytes()
                if member == "config.json":
                    config = {**json.loads(data), "compile_config": None}
                    # Sort the keys, as compiling moves that entry.
                    data = json.dumps(_without_addresses(config, {}), sort_keys=True).encode()
                if member == "metadata.json":
                    # Otherwise the date would make every file different.
                    data = json.dumps({**json.loads(data), "date_saved": ""}).encode()
                target.writestr(zipfile.ZipInfo(member, _EPOCH), data, zipfile.ZIP_DEFLATED)
            target.writestr(zipfile.ZipInfo(_CARD, _EPOCH), json.dumps(card, indent=1))
        os.replace(small, path)


def _without_addresses(node: Any, numbers: dict[int, int]) -> Any:
    """Renumber the shared objects of a Keras config, as their ids are memory addresses.

    Remove the id of a dtype policy: sharing it means nothing, and a loaded model doesn't share it.
    """
    if isinstance(node, list):
        return [_without_addresses(item, numbers) for item in node]
    if not isinstance(node, dict):
        return node
    settled = {key: _without_addresses(value, numbers) for key, value in node.items()}
    address = settled.pop("shared_object_id", None)
    if address is not None and settled.get("class_name") != "DTypePolicy":
        settled["shared_object_id"] = numbers.setdefault(address, len(numbers) + 1)
    return settled


def _halve(source: Path, target: Path, h5py: Any) -> None:
    """Copy an HDF5 file without the optimizer, with matrices and kernels as float16."""
    with h5py.File(source) as old, h5py.File(target, "w") as new:

        def copy(name: str, item: Any) -> None:
            if name.split("/")[0] == "optimizer":
                return
            if isinstance(item, h5py.Group):
                group = new.require_group(name)
            else:
                value = item[()]
                half = getattr(value, "ndim", 0) > 1 and value.dtype.kind == "f"
                group = new.create_dataset(name, data=value.astype("float16") if half else value)
            group.attrs.update(item.attrs)

        new.attrs.update(old.attrs)
        old.visititems(copy)


def read_card(path: Path) -> dict[str, Any]:
    """Return the card that ``exporter train`` wrote into a file; empty for any other file.

    Raises:
        ExporterError: the file isn't a readable ``.keras`` archive, or its card is damaged.
    """
    card = read_json(path, _CARD, required=False)
    said, classes = card.get("preprocessing"), card.get("classes", [])
    if said is not None and said not in tuple(PREPROCESSING):
        raise ExporterError(f"{path}: {_CARD} has an unknown preprocessing: {said!r}")
    if not (isinstance(classes, list) and all(isinstance(name, str) for name in classes)):
        raise ExporterError(f"{path}: the classes in {_CARD} aren't a list of names")
    return card
