"""Activation ranges and quantisation parameters.

Knows graphs and arrays, not Keras, data sets or targets.
"""
