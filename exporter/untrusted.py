"""Reading strangers' files: ``.keras`` archives, ONNX graphs and JSON, before others open them."""

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
"""Of a JSON member of an archive: one of a thousand layers has some megabytes."""

# All that a damaged, encrypted or hostile archive makes zipfile and json raise.
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
    """Read one JSON object of an archive.

    Args:
        path: a ``.keras`` file.
        member: of the archive.
        required: whether its absence is damage; else it reads as empty.

    Raises:
        ExporterError: the file or the member is damaged.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            if not required and member not in archive.namelist():
                return {}
            with archive.open(member) as file:  # what the directory says of its size is its word
                content = file.read(_MEMBER_BYTES + 1)
            if len(content) > _MEMBER_BYTES:
                raise ValueError(f"{member} is larger than {_MEMBER_BYTES >> 20} MiB")
            value = json.loads(content)
    except _DAMAGE as error:
        raise ExporterError(f"{path} is not a readable .keras file: {error}") from error
    if not isinstance(value, dict):
        raise ExporterError(f"{path} is not a readable .keras file: {member} is no JSON object")
    return value


def read_json_file(path: Path, what: str, *, most_bytes: int) -> Any:
    """Read a JSON file that anybody may have written.

    Args:
        path: a regular file; anything else might never end.
        what: what it should be, as it reads in a sentence ("a layer-info file").
        most_bytes: size above which it is refused unread.

    Raises:
        WrongUse: no such file, or it is no file.
        ExporterError: it is too large or no JSON.
    """
    if not path.is_file():
        raise WrongUse(f"no such file: {path}", hint=f"it should be {what}")
    try:
        with path.open("rb") as file:
            content = file.read(most_bytes + 1)
        if len(content) > most_bytes:
            raise ExporterError(
                f"{path} is larger than {most_bytes / 1e6:.0f} MB, so it is not read",
                hint=f"it should be {what}",
            )
        return json.loads(content)
    except (OSError, ValueError, RecursionError) as error:
        raise ExporterError(
            f"{path} is not readable JSON: {error}", hint=f"it should be {what}"
        ) from error


def refuse_external_data(path: Path) -> None:
    """Refuse an ONNX file whose weights are in other files, which no hash of this one covers.

    Raises:
        ExporterError: names the tensor. Of what is no ONNX file, its reader will say so.
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
                f"{path} takes {tensor.name!r} from another file, which its hash says nothing of",
                hint="export it again; this tool writes graphs with their weights inside",
            )


def _tensors(graph: onnx.GraphProto | onnx.FunctionProto) -> Iterator[onnx.TensorProto]:
    """Walk all constants of a graph and of those inside its nodes."""
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
    """Find Lambda layers in an archive's configuration.

    Raises:
        WrongUse: there are some and ``unsafe`` is not given.
        ExporterError: the file is damaged.
    """
    config = read_json(path, "config.json", required=True)
    lambdas = [name for kind, name in _layer_configs(config) if kind == "Lambda"]
    if lambdas and not unsafe:
        raise WrongUse(
            f"{path} has a Lambda layer ({', '.join(lambdas)}), which is code that would run here",
            hint="if you trust where the file came from, repeat with --unsafe",
        )


def _layer_configs(config: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Walk a Keras configuration; yield (class name, layer name) of all that has a class."""
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
