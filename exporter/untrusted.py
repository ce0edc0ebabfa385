"""Check untrusted files (Keras archives, HDF5, ONNX, JSON) before other code opens them."""

from __future__ import annotations

import json
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from exporter.errors import ExporterError, WrongUse

if TYPE_CHECKING:
    import h5py
    import onnx

_MEMBER_BYTES = 64 * 2**20
"""Maximum size of a JSON member of an archive. A network of a thousand layers needs a few MB."""

# Everything that zipfile and json may raise on a damaged, encrypted or hostile archive.
_DAMAGE = (
    OSError,
    EOFError,
    KeyError,
    NotImplementedError,
    RecursionError,
    RuntimeError,
    ValueError,
    zipfile.BadZipFile,
    zlib.error,
)


def read_json(path: Path, member: str, *, required: bool) -> dict[str, Any]:
    """Read one JSON object from an archive.

    Args:
        path: a ``.keras`` file.
        member: name of the archive member.
        required: whether a missing member is an error. If not, it reads as an empty object.

    Raises:
        ExporterError: the file or the member is damaged.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            if not required and member not in archive.namelist():
                return {}
            with archive.open(member) as file:  # the size in the archive's directory may be false
                content = file.read(_MEMBER_BYTES + 1)
            if len(content) > _MEMBER_BYTES:
                raise ValueError(f"{member} is larger than {_MEMBER_BYTES >> 20} MiB")
            value = json.loads(content)
    except _DAMAGE as error:
        raise ExporterError(f"{path} is not a readable .keras file: {error}") from error
    if not isinstance(value, dict):
        raise ExporterError(f"{path} is not a readable .keras file: {member} is not a JSON object")
    return value


def read_json_file(path: Path, what: str, *, most_bytes: int) -> Any:
    """Read an untrusted JSON file.

    Args:
        path: must be a regular file, as reading anything else might never end.
        what: what the file should be, as words for the message ("a layer-info file").
        most_bytes: maximum size; a larger file is not parsed.

    Raises:
        WrongUse: the path doesn't exist or isn't a regular file.
        ExporterError: the file is too large or isn't JSON.
    """
    if not path.is_file():
        raise WrongUse(f"no such file: {path}", hint=f"it should be {what}")
    try:
        with path.open("rb") as file:
            content = file.read(most_bytes + 1)
        if len(content) > most_bytes:
            raise ExporterError(
                f"{path} is larger than the limit of {most_bytes / 1e6:.0f} MB",
                hint=f"it should be {what}",
            )
        return json.loads(content)
    except (OSError, ValueError, RecursionError) as error:
        raise ExporterError(
            f"{path} is not readable JSON: {error}", hint=f"it should be {what}"
        ) from error


def refuse_external_data(path: Path) -> None:
    """Refuse an ONNX file that stores weights in other files, as its hash doesn't cover those.

    A file that isn't ONNX passes: the code that reads it reports that error.

    Raises:
        ExporterError: a tensor is in another file. The message names it.
    """
    import onnx
    from google.protobuf.message import DecodeError

    try:
        model = onnx.load(path, load_external_data=False)
    except DecodeError:
        return
    graphs = [model.graph, *model.functions]
    for tensor in (tensor for graph in graphs for tensor in _tensors(graph)):
        if tensor.external_data or tensor.data_location == onnx.TensorProto.EXTERNAL:
            raise ExporterError(
                f"{path} stores {tensor.name!r} in another file, which its hash doesn't cover",
                hint="export it again; exporter writes graphs with their weights inside",
            )


def _tensors(graph: onnx.GraphProto | onnx.FunctionProto) -> Iterator[onnx.TensorProto]:
    """Yield all constants of a graph and of the graphs inside its nodes."""
    for sparse in getattr(graph, "sparse_initializer", ()):
        yield from (sparse.values, sparse.indices)
    yield from getattr(graph, "initializer", ())
    for attribute in (attribute for node in graph.node for attribute in node.attribute):
        yield from (attribute.t, *attribute.tensors)
        for sparse in (attribute.sparse_tensor, *attribute.sparse_tensors):
            yield from (sparse.values, sparse.indices)
        for inner in (attribute.g, *attribute.graphs):
            yield from _tensors(inner)


def read_h5_config(path: Path) -> dict[str, Any]:
    """Read the configuration of a network in an HDF5 file, and check where its data is.

    Raises:
        WrongUse: the file has weights but no network.
        ExporterError: the file is damaged, or parts of it are in other files.
    """
    import h5py

    try:
        with h5py.File(path, "r") as file:
            _refuse_links(file, path)
            stored = file.attrs.get("model_config")
            if stored is None:
                raise WrongUse(
                    f"{path} has weights but no network",
                    hint="save the whole network: model.save('model.keras')",
                )
            config = json.loads(stored)
    except _DAMAGE as error:
        raise ExporterError(f"{path} is not a readable HDF5 file: {error}") from error
    if not isinstance(config, dict):
        raise ExporterError(f"{path} is not a readable HDF5 file: its network is no JSON object")
    return config


def _refuse_links(group: h5py.Group, path: Path) -> None:
    """Refuse links to other files, and data sets that are stored there."""
    import h5py

    for name in group:
        link = group.get(name, getlink=True)
        outside = not isinstance(link, h5py.HardLink)
        member = None if outside else group[name]
        if isinstance(member, h5py.Dataset):
            outside = bool(member.external) or member.is_virtual
        if outside:
            raise ExporterError(f"{path}: {group.name}/{name} links to other data, maybe a file")
        if isinstance(member, h5py.Group):
            _refuse_links(member, path)


def refuse_code(path: Path, config: dict[str, Any], *, unsafe: bool) -> None:
    """Refuse a network with Lambda layers, unless ``unsafe`` is set.

    Args:
        path: of the file, for the message.
        config: the network's configuration.
        unsafe: whether its code may run.

    Raises:
        WrongUse: there are Lambda layers, and ``unsafe`` is False.
    """
    lambdas = [_name(node) for node in layer_configs(config) if node["class_name"] == "Lambda"]
    if lambdas and not unsafe:
        raise WrongUse(
            f"{path} has Lambda layers ({', '.join(lambdas)}); loading it would run their code",
            hint="if you trust the source of the file, repeat with --unsafe",
        )


def layer_configs(config: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Walk a Keras configuration, and yield each object in it that has a ``class_name``."""
    waiting: list[Any] = [config]
    while waiting:
        node = waiting.pop()
        if isinstance(node, Mapping):
            if isinstance(node.get("class_name"), str):
                yield dict(node)
            waiting += node.values()
        elif isinstance(node, list):
            waiting += node


def _name(node: dict[str, Any]) -> str:
    inner = node.get("config")
    return str(inner.get("name") if isinstance(inner, dict) else "")
