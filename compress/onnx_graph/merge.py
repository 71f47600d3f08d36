"""Merges layers that read the same input into one."""

from collections import defaultdict

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass


def merge_linears(model: ir.Model) -> int:
    """One Gemm and a Split in place of Gemms that read one tensor, as time-embedding projections do.

    Weights are constants [out, in], or int8 constants behind a DequantizeLinear along axis 0; biases are constants
    [out]. Where an Unsqueeze follows every Gemm, it moves before the Split; there, if the tensor is bytes as well, the
    Gemm becomes a product of bytes, for which onnxruntime has a kernel as long as the bias is added after the
    Unsqueeze. Changes `model`; returns how many Gemms went.
    """
    siblings: dict[tuple[ir.Value | None, int], list[ir.Node]] = defaultdict(list)
    for node in model.graph:
        constants = _constants(node)
        if constants:
            siblings[node.inputs[0], len(constants)].append(node)
    groups = [nodes for nodes in siblings.values() if len(nodes) > 1]
    for nodes in groups:
        _merge(model.graph, nodes)
    RemoveUnusedNodesPass()(model)
    return sum(len(nodes) - 1 for nodes in groups)


def _constants(node: ir.Node) -> list[ir.Value]:
    """[bias, weight] or [bias, weight, scale, zero point] of a Gemm x W^T + b; empty for anything else."""
    standard = {"transB": 1, "transA": 0, "alpha": 1.0, "beta": 1.0}
    settings = {"transB": 0} | {name: attribute.value for name, attribute in node.attributes.items()}
    if node.op_type != "Gemm" or (standard | settings) != standard or node.outputs[0].is_graph_output():
        return []
    weight, bias = node.inputs[1], node.inputs[2] if len(node.inputs) > 2 else None
    if weight is None or len(weight.uses()) > 1:
        return []
    producer = _dequantized(weight)
    found = [value for value in (bias, *(producer.inputs if producer else [weight])) if value is not None]
    constant = len(found) in (2, 4) and all(value.const_value is not None for value in found)
    return found if constant and (producer is None or found[2].const_value.shape.rank() == 1) else []


def _dequantized(value: ir.Value | None) -> ir.Node | None:
    """The DequantizeLinear that a value comes from."""
    producer = None if value is None else value.producer()
    return producer if producer is not None and producer.op_type == "DequantizeLinear" else None


def _merge(graph: ir.Graph, nodes: list[ir.Node]) -> None:
    first = nodes[0]
    assert first.inputs[0] is not None
    stem = f"{first.inputs[0].name}.merged"

    def constant(name: str, array: np.ndarray) -> ir.Value:
        value = ir.Value(name=f"{stem}.{name}", const_value=ir.tensor(array, name=f"{stem}.{name}"))
        graph.register_initializer(value)
        return value

    separate = [[value.const_value.numpy() for value in _constants(node)] for node in nodes]
    bias, *parts = (np.concatenate(part) for part in zip(*separate, strict=True))
    replaced = [node.outputs[0] for node in nodes]
    unsqueezes = [use.node for value in replaced for use in value.uses()]
    axes = {tuple(_axes(node)) for node in unsqueezes}
    if len(unsqueezes) == len(nodes) and len(axes) == 1 and axes != {()}:
        replaced = [node.outputs[0] for node in unsqueezes]
    else:
        unsqueezes = []
    new = []
    if _dequantized(first.inputs[0]) and len(parts) > 1 and unsqueezes:
        weight, *parameters = parts
        given = [constant(f"constant{i}", part) for i, part in enumerate((weight.T.copy(), *parameters))]
        new.append(ir.node("DequantizeLinear", given, {"axis": 1}))
        new.append(ir.node("MatMul", [first.inputs[0], new[-1].outputs[0]]))
        new.append(ir.node("Unsqueeze", [new[-1].outputs[0], unsqueezes[0].inputs[1]]))
        behind = constant("bias", bias.reshape(-1, *[1] * len(axes.pop())))
        new.append(ir.node("Add", [new[-1].outputs[0], behind]))
    else:
        given = [constant(f"constant{i}", part) for i, part in enumerate((*parts, bias))]
        if len(parts) > 1:
            new.append(ir.node("DequantizeLinear", given[:-1], {"axis": 0}))
        factor = new[-1].outputs[0] if new else given[0]
        new.append(ir.node("Gemm", [first.inputs[0], factor, given[-1]], {"transB": 1}))
        if unsqueezes:
            new.append(ir.node("Unsqueeze", [new[-1].outputs[0], unsqueezes[0].inputs[1]]))
    lengths = constant("sizes", np.array([len(bias) for bias, *_ in separate], dtype=np.int64))
    new.append(ir.node("Split", [new[-1].outputs[0], lengths], {"axis": 1}, num_outputs=len(nodes)))
    for before, after in zip(replaced, new[-1].outputs, strict=True):
        after.name, after.type, after.shape = before.name, before.type, before.shape
    graph.insert_before(first, new)
    ir.convenience.replace_all_uses_with(replaced, new[-1].outputs)
    graph.remove([*unsqueezes, *nodes], safe=True)


def _axes(node: ir.Node) -> list[int]:
    """Axes of an Unsqueeze behind the features; empty for any other node."""
    if node.op_type != "Unsqueeze" or node.inputs[1] is None or node.inputs[1].const_value is None:
        return []
    axes: list[int] = node.inputs[1].const_value.numpy().tolist()
    return axes if min(axes) > 1 else []
