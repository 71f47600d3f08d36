"""Removes from an exported graph what no runtime reads."""

import itertools

import onnx_ir as ir
from onnx_ir.passes.common import ClearMetadataAndDocStringPass


def clean(model: ir.Model, shorten: bool = True) -> None:
    """Take out the exporter's notes: stack traces, doc strings, inferred shapes. Changes `model`, not what it computes.

    Such notes can take more bytes than a small model's int8 weights. shorten: names of nodes and values too.
    """
    graph = model.graph
    ClearMetadataAndDocStringPass()(model)
    ends = {*graph.inputs, *graph.outputs}
    inner = [*graph.initializers.values(), *(value for node in graph for value in node.outputs)]
    inner = [value for value in inner if value not in ends]
    for noted in (model, graph, *ends, *inner):
        noted.metadata_props.clear()
        noted.doc_string = None
    for value in inner:
        value.type = value.shape = None
    if shorten:
        taken = {value.name for value in ends}
        free = (name for name in map("v{}".format, itertools.count()) if name not in taken)
        ir.convenience.rename_values(inner, list(itertools.islice(free, len(inner))))
        for number, node in enumerate(graph):
            node.name = f"n{number}"
