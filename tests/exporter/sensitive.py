"""A network with one layer that INT8 ruins, on purpose, and images that it tells apart."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx.helper as oh
import onnx_ir as ir
import onnxruntime
from onnx import TensorProto, numpy_helper

from calibration.tap import tapped
from exporter.data.held_out import HeldOut
from exporter.network.sources import Port, Source
from exporter.passes import schemes
from exporter.passes.insert_qdq import tensors_to_calibrate
from exporter.precision.trials import Trials

IMAGES, SIDE, CHANNELS, CLASSES = 96, 8, 8, 3
MACS = {
    "first": CHANNELS * 1 * 9 * SIDE**2,
    "ruined": CHANNELS * CHANNELS * 9 * SIDE**2,
    "second": CHANNELS * CHANNELS * 9 * (SIDE // 2) ** 2,
    "head": CHANNELS * (SIDE // 2) ** 2 * CLASSES,
}


def network(loudest: float = 1e4) -> ir.Model:
    """first, ruined, second and head, ReLU between: what `ruined` reads has one loud channel.

    One scale for the tensor then rounds all the others to nothing. `ruined` itself weights the
    loud one down as far, so that the float network lives of all of them alike.
    """
    rng = np.random.default_rng(0)

    def kernel(*shape: int) -> np.ndarray:
        return rng.normal(0, 1 / np.sqrt(np.prod(shape[1:])), shape).astype(np.float32)

    weights = {
        "w_first": kernel(CHANNELS, 1, 3, 3),
        "w_ruined": kernel(CHANNELS, CHANNELS, 3, 3),
        "w_second": kernel(CHANNELS, CHANNELS, 3, 3),
        "w_head": rng.normal(0, 1, (CHANNELS * (SIDE // 2) ** 2, CLASSES)).astype(np.float32),
        "b_head": np.zeros(CLASSES, np.float32),
    }
    weights["w_first"][0] *= loudest
    weights["w_ruined"][:, 0] /= loudest
    graph = _graph(weights)
    logits = onnxruntime.InferenceSession(
        graph.SerializeToString(), providers=["CPUExecutionProvider"]
    ).run(None, {"x": pixels().transpose(0, 3, 1, 2).astype(np.float32)})[0]
    weights["b_head"] = -logits.mean(0)  # so that every class comes up
    return ir.from_proto(onnx.shape_inference.infer_shapes(_graph(weights)))


def pixels() -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (2 * IMAGES, SIDE, SIDE, 1), np.uint8)


def trials(scheme: str, model: ir.Model) -> Trials:
    """Calibrate by what onnxruntime says the least and the greatest values are."""
    row = schemes.lookup(scheme, reduce_range=scheme == "cpu")
    feed = {"x": pixels().transpose(0, 3, 1, 2).astype(np.float32)}
    graph, names = tapped(model, tensors_to_calibrate(model, row))
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    values = feed | dict(zip(names, session.run(names, feed), strict=True))
    ranges = {name: (float(min(x.min(), 0)), float(x.max())) for name, x in values.items()}
    if row.symmetric:
        ranges = {name: (-max(-low, high), max(-low, high)) for name, (low, high) in ranges.items()}
    return Trials(model, row, ranges, original=model)


def held_out(ready: Trials) -> HeldOut:
    """The half of the images that the float network is surest of; labels are what it says."""
    port = Port("x", (None, SIDE, SIDE, 1), "float32")
    out = Port("y", (None, CLASSES), "float32")
    source = Source("tiny", "keras", "", "", _unused, _unused, (port,), (out,), None, (), "raw", ())
    everything = HeldOut(source, pixels(), np.zeros(2 * IMAGES, np.int64), "nchw", None)
    logits = ready.float_logits(everything)
    ordered = np.sort(logits, -1)
    surest = np.sort(np.argsort(ordered[:, -2] - ordered[:, -1])[:IMAGES])
    return HeldOut(source, pixels()[surest], logits.argmax(-1)[surest], "nchw", None)


def _unused(_: Any) -> Any:
    raise AssertionError("nothing here runs Keras")


def _graph(weights: dict[str, np.ndarray]) -> onnx.ModelProto:
    nodes = []

    def conv(name: str, source: str, stride: int = 1) -> str:
        nodes.append(
            oh.make_node(
                "Conv",
                [source, f"w_{name}"],
                [f"{name}_out"],
                name=name,
                pads=[1, 1, 1, 1],
                strides=[stride, stride],
            )
        )
        nodes.append(oh.make_node("Relu", [f"{name}_out"], [f"{name}_relu"], name=f"{name}_relu"))
        return f"{name}_relu"

    end = conv("second", conv("ruined", conv("first", "x")), stride=2)
    nodes.append(oh.make_node("Flatten", [end], ["flat"], name="flatten"))
    nodes.append(oh.make_node("Gemm", ["flat", "w_head", "b_head"], ["y"], name="head"))
    return oh.make_model(
        oh.make_graph(
            nodes,
            "tiny",
            [oh.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 1, SIDE, SIDE])],
            [oh.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", CLASSES])],
            [numpy_helper.from_array(array, name) for name, array in weights.items()],
        ),
        opset_imports=[oh.make_opsetid("", 18)],
        ir_version=10,
    )
