"""Activation ranges and quantization parameters.

Knows graphs and arrays, not Keras, data sets or targets.
"""
