"""What TensorRT engines say about themselves: record, layers, fusion audit, where they load."""
