"""Latency, memory and energy beside the original and other tools, measured in pairs."""
