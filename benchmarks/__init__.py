"""Accuracy, drift, latency and power of artifacts: measured, reported, gated."""
