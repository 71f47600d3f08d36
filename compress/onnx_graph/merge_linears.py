"""Merges layers that read the same input into one."""

from collections import defaultdict

import numpy as np
import onnx_ir as ir

from compress.onnx_graph.simplify import tidy


def merge_linears(model: ir.Model) -> int:
    """One Gemm and a Split in place of Gemms that read one tensor, as time-embedding projections do.

    Weights are constants [out, in], or int8 constants behind a DequantizeLinear along axis 0; biases are constants
    [out]. Where an Unsqueeze follows every Gemm, it moves before the Split; there, if the tensor is bytes as well, the
    Gemm becomes a product of bytes, for which onnxruntime has a kernel as long as the bias is added after the
    Unsqueeze. Changes `model`; returns how many Gemms went.
    """
    siblings: dict[tuple[ir.Value, int], list[ir.Node]] = defaultdict(list)
    for node in model.graph:
        constants = _constants(node)
        if constants:
            siblings[node.inputs[0], len(constants)].append(node)
    groups = [nodes for nodes in siblings.values() if len(nodes) > 1]
    for nodes in groups:
        _merge(model.graph, nodes)
    tidy(model)
    return sum(len(nodes) - 1 for nodes in groups)


def _constants(node: ir.Node) -> list[np.ndarray]:
    """[bias, weight] or [bias, weight, scale, zero point] of a Gemm x W^T + b; empty for anything else."""
    standard = {"transB": 1, "transA": 0, "alpha": 1.0, "beta": 1.0}
    settings = {"transB": 0} | {name: attribute.value for name, attribute in node.attributes.items()}
    if node.op_type != "Gemm" or (standard | settings) != standard or node.outputs[0].is_graph_output():
        return []
    _, weight, bias = (*node.inputs, None)[:3]
    if weight is None or len(weight.uses()) > 1:
        return []
    found = [bias, *(weight.producer().inputs if _is_dequantized(weight) else [weight])]
    tensors = [value.const_value for value in found if value is not None]
    if None in tensors or len(tensors) not in (2, 4) or any(tensor.shape.rank() != 1 for tensor in tensors[2:3]):
        return []
    return [tensor.numpy() for tensor in tensors]


def _is_dequantized(value: ir.Value) -> bool:
    producer = value.producer()
    return producer is not None and producer.op_type == "DequantizeLinear"


def _merge(graph: ir.Graph, nodes: list[ir.Node]) -> None:
    first, tape = nodes[0], ir.tape.Tape()

    def constant(array: np.ndarray) -> ir.Value:
        return tape.op("Constant", [], {"value": ir.tensor(array)})

    separate = [_constants(node) for node in nodes]
    bias, weight, *rounding = (np.concatenate(part) for part in zip(*separate, strict=True))
    replaced = [node.outputs[0] for node in nodes]
    unsqueezes = [use.node for value in replaced for use in value.uses()]
    axes = {_axes(node) for node in unsqueezes}
    behind = axes.pop() if len(unsqueezes) == len(nodes) and len(axes) == 1 else ()
    x = first.inputs[0]
    if rounding and behind and _is_dequantized(x):
        factor = tape.op("DequantizeLinear", [constant(weight.T.copy()), *map(constant, rounding)], {"axis": 1})
        merged = tape.op("Unsqueeze", [tape.op("MatMul", [x, factor]), unsqueezes[0].inputs[1]])
        merged = tape.op("Add", [merged, constant(bias.reshape(-1, *[1] * len(behind)))])
    else:
        factor = constant(weight)
        if rounding:
            factor = tape.op("DequantizeLinear", [factor, *map(constant, rounding)], {"axis": 0})
        merged = tape.op("Gemm", [x, factor, constant(bias)], {"transB": 1})
        if behind:
            merged = tape.op("Unsqueeze", [merged, unsqueezes[0].inputs[1]])
    if behind:
        replaced, nodes = [node.outputs[0] for node in unsqueezes], [*unsqueezes, *nodes]
    sizes = constant(np.array([len(bias) for bias, *_ in separate]))
    parts = tape.op_multi_out("Split", [merged, sizes], {"axis": 1}, num_outputs=len(separate))
    ir.convenience.replace_nodes_and_values(graph, first, nodes, tape.nodes, replaced, parts)


def _axes(node: ir.Node) -> tuple[int, ...]:
    """Axes of an Unsqueeze behind the features; empty for any other node."""
    if node.op_type != "Unsqueeze" or node.inputs[1] is None or node.inputs[1].const_value is None:
        return ()
    axes = tuple(node.inputs[1].const_value.numpy().tolist())
    return axes if min(axes) > 1 else ()
