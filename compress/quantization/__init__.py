"""Arithmetic other than float: which layers, on which grid, and how weights are rounded to it.

A scheme is a row of `runtime.schemes`; what is made here is made again from saved ranges. Imports `model` and what is
below. Start reading with `quantized.py`, then `quantizer.py`.
"""
