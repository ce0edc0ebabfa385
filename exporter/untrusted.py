"""Check untrusted files (``.keras`` archives, ONNX graphs, JSON) before other code opens them."""

from __future__ import annotations

import json
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from exporter.errors import ExporterError, WrongUse

if TYPE_CHECKING:
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


def refuse_code(path: Path, *, unsafe: bool) -> None:
    """Refuse an archive with Lambda layers, unless ``unsafe`` is set.

    Raises:
        WrongUse: there are Lambda layers, and ``unsafe`` is False.
        ExporterError: the file is damaged.
    """
    config = read_json(path, "config.json", required=True)
    lambdas = [name for kind, name in _layer_configs(config) if kind == "Lambda"]
    if lambdas and not unsafe:
        raise WrongUse(
            f"{path} has Lambda layers ({', '.join(lambdas)}); loading it would run their code",
            hint="if you trust the source of the file, repeat with --unsafe",
        )


def _layer_configs(config: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Walk a Keras configuration, and yield (class name, layer name) for each object in it."""
    waiting: list[Any] = [config]
    while waiting:
        node = waiting.pop()
        if isinstance(node, dict):
            if isinstance(node.get("class_name"), str):
                inner = node.get("config")
                yield node["class_name"], str(inner.get("name") if isinstance(inner, dict) else "")
            waiting += node.values()
        elif isinstance(node, list):
            waiting += node
