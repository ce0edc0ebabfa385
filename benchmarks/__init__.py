"""Accuracy, drift, latency and power of artefacts: measured, reported, gated."""
