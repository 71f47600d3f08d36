"""Removes from an exported graph what no runtime reads."""

import itertools

import onnx


def clean(model: onnx.ModelProto, shorten: bool = True) -> onnx.ModelProto:
    """The same computation without the exporter's notes: stack traces, doc strings, inferred shapes.

    Such notes can take more bytes than a small model's int8 weights. shorten: names of nodes and values too. Changes
    `model` and returns it.
    """
    for node in model.graph.node:
        del node.metadata_props[:]
        node.doc_string = ""
    for value in (*model.graph.input, *model.graph.output, *model.graph.initializer):
        del value.metadata_props[:]
        value.doc_string = ""
    del model.graph.value_info[:]
    del model.graph.metadata_props[:]
    del model.metadata_props[:]
    if shorten and not any(attribute.HasField("g") for node in model.graph.node for attribute in node.attribute):
        _shorten_names(model.graph)  # subgraphs would still use the old names
    return model


def _shorten_names(graph: onnx.GraphProto) -> None:
    """Give every intermediate value a short name; inputs and outputs keep theirs."""
    kept = {value.name for value in (*graph.input, *graph.output)} | {""}
    short: dict[str, str] = {}

    free = (name for name in map("v{}".format, itertools.count()) if name not in kept)

    def rename(name: str) -> str:
        if name not in kept and name not in short:
            short[name] = next(free)
        return short.get(name, name)

    for tensor in graph.initializer:
        tensor.name = rename(tensor.name)
    for number, node in enumerate(graph.node):
        node.name = f"n{number}"
        node.input[:] = [rename(name) for name in node.input]
        node.output[:] = [rename(name) for name in node.output]
