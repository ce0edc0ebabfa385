"""From float32 to FP16, BF16, INT8 and FP8: apply, quantize, recover, hold a budget."""
