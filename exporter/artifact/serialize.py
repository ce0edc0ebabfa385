"""Serialize a graph, after onnx's own check has accepted it."""

from __future__ import annotations

import onnx_ir as ir

from exporter.errors import ConversionError


def checked_bytes(model: ir.Model) -> bytes:
    """Check a graph with onnx's full check, including shape inference, and serialize it.

    Raises:
        ConversionError: the check fails. That is a defect of ours; such a graph is never written
            to disk.
    """
    import onnx

    proto = ir.to_proto(model)
    try:
        onnx.checker.check_model(proto, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ConversionError(f"the converted graph is not valid ONNX: {error}") from error
    try:
        data: bytes = proto.SerializeToString()
    except Exception as error:  # protobuf's own type, which differs between its releases
        raise ConversionError(f"the graph is larger than protobuf's 2 GB: {error}") from error
    return data
