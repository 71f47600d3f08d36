"""From a PyTorch module to a lean ONNX graph: the export and its rewrites, each proven equal on random input.

A rewrite is one file and one function from graph to graph; `export.py` says their order. Imports `quantization`,
`model` and what is below. Start reading with `export.py`.
"""
