"""Activation ranges and quantization parameters.

This package knows graphs and arrays, but not Keras, data sets or targets.
"""
