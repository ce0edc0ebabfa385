"""Measure latency, memory and energy in pairs with the original and with other tools."""
