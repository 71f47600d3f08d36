"""Measuring what a model costs: clocks, memory, counts of weights and arithmetic.

Everything here takes a model, a bundle or a graph and gives numbers; whether they are good is for `judge` to say.
Imports `onnx_graph`, `pipeline` and what is below. Start reading with `latency.py`.
"""
