"""ResNet-50 at 224x224 as a graph without its weights, for a kit that must be small.

Its weights are random, so nothing is lost if they are left out. Of each big one, only the mean and
the standard deviation are kept. The machine that measures the latency draws it again from a seed.
The values differ from those that were converted. Shapes, types and nodes are the same.
"""

from __future__ import annotations

import json
import tempfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from exporter.artifact import folder as artifact
from exporter.artifact.folder import MODEL, Artifact
from exporter.config import Precision
from exporter.errors import ExporterError
from exporter.progress import Progress, silent

NAME = "resnet50-224"
NETWORK, SIZE, CHANNELS, CLASSES = "resnet50", 224, 3, 1000
PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16")
_FIELDS = "exporter.artifact.passport"
_DRAWN = "drawn "
_KEPT_ELEMENTS = 64


def prepare(folder: Path, progress: Progress = silent) -> None:
    """Convert the network and write ``resnet50-224-PRECISION.skeleton.onnx`` into a folder."""
    from exporter import pipeline
    from exporter.config import ExportConfig
    from exporter.models import zoo
    from exporter.network.keras_env import load_keras

    keras = load_keras()
    keras.utils.set_random_seed(0)
    model = zoo.build(NETWORK, image_size=SIZE, channels=CHANNELS, classes=CLASSES)
    with tempfile.TemporaryDirectory() as aside:
        source = Path(aside, f"{NAME}.keras")
        model.save(source)
        for precision in PRECISIONS:
            config = ExportConfig(
                str(source),
                "ort-cuda",
                Path(aside, precision),
                precision=precision,
                preprocess="unit",
                check_images=4,
            )
            made = pipeline.export(config, progress)
            data = strip(made.read_bytes(MODEL), made.passport)
            file(folder, precision).write_bytes(data)


def file(folder: Path, precision: str) -> Path:
    """Name a skeleton's file."""
    return folder / f"{NAME}-{precision}.skeleton.onnx"


def strip(model: bytes, passport: dict[str, Any]) -> bytes:
    """Leave big weights out of a graph, and store the artifact's passport in it.

    Args:
        model: a serialized graph.
        passport: of its artifact; the hashes of its files are left out.
    """
    import onnx
    from onnx import numpy_helper

    found = onnx.load_model_from_string(model)
    for tensor in found.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if values.dtype.kind != "f" or values.size <= _KEPT_ELEMENTS:
            continue
        tensor.ClearField("raw_data")
        tensor.ClearField("float_data")
        wide = values.astype(np.float64)
        tensor.doc_string = _DRAWN + json.dumps([float(wide.mean()), float(wide.std())])
    fields = {name: value for name, value in passport.items() if name not in ("files", "format")}
    onnx.helper.set_model_props(found, {_FIELDS: json.dumps(fields)})
    stripped: bytes = found.SerializeToString()
    return stripped


def restore(skeleton: Path, place: Path) -> Artifact:
    """Draw the weights anew and write the artifact.

    Args:
        skeleton: written by :func:`prepare`; the caller has checked its hash.
        place: a folder that does not exist yet.

    Raises:
        ExporterError: it is not a skeleton.
    """
    import onnx
    from onnx import numpy_helper

    try:
        found = onnx.load_model_from_string(skeleton.read_bytes())
        (entry,) = (each for each in found.metadata_props if each.key == _FIELDS)
        fields = json.loads(entry.value)
    except Exception as error:  # protobuf's exceptions have no common public base
        raise ExporterError(f"{skeleton} is not a graph without weights: {error}") from error
    for tensor in found.graph.initializer:
        if not tensor.doc_string.startswith(_DRAWN):
            continue
        mean, deviation = json.loads(tensor.doc_string.removeprefix(_DRAWN))
        random = np.random.default_rng(zlib.crc32(tensor.name.encode()))
        values = random.normal(mean, deviation, tuple(tensor.dims))
        dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
        tensor.CopyFrom(numpy_helper.from_array(values.astype(dtype), tensor.name))
    found.metadata_props.remove(entry)
    with artifact.writing(place, force=False) as folder:
        (folder / MODEL).write_bytes(found.SerializeToString())
        sealed = artifact.seal(folder, fields)
    return Artifact(place, sealed)
