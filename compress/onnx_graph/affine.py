"""Scales and shifts channels in one kernel instead of two."""

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass


def merge_affine(model: ir.Model) -> int:
    """One BatchNormalization of mean 0 and variance 1 in place of x w + b, with which group norms end.

    x: floats [b,c,...], rank and c known; w, b: constants of one number a channel, [c,1,...] or [1,c,1,...].
    Changes `model`; returns how many nodes went.
    """
    vectors: dict[object, ir.Value] = {}  # what several nodes read is written once

    def vector(source: object, array: np.ndarray) -> ir.Value:
        if source not in vectors:
            tensor = ir.tensor(array.reshape(-1), name=f"affine{len(vectors)}.constant")
            vectors[source] = ir.Value(name=tensor.name, const_value=tensor)
            model.graph.register_initializer(vectors[source])
        return vectors[source]

    merged = 0
    for add in list(model.graph):
        found = _affine(add)
        if found is None:
            continue
        mul, x, weight, bias = found
        w, b = weight.const_value.numpy(), bias.const_value.numpy()
        mean = vector(("mean", w.size, w.dtype), np.zeros_like(w))
        variance = vector(("variance", w.size, w.dtype), np.ones_like(w))
        inputs = [x, vector(weight, w), vector(bias, b), mean, variance]
        new = ir.node("BatchNormalization", inputs, {"epsilon": 0.0})  # the factor 1 / √(1 + 0) is exact
        before, after = add.outputs[0], new.outputs[0]
        after.name, after.type, after.shape = before.name, before.type, before.shape
        model.graph.insert_before(add, new)
        ir.convenience.replace_all_uses_with(before, after, replace_graph_outputs=True)
        model.graph.remove([add, mul], safe=True)
        merged += 1
    RemoveUnusedNodesPass()(model)
    return merged


def _affine(add: ir.Node) -> tuple[ir.Node, ir.Value, ir.Value, ir.Value] | None:
    """(product, x, w, b) of a sum x w + b; None for anything else."""
    terms = _operands(add, "Add")
    mul = terms[0].producer() if terms else None
    if mul is None or len(terms[0].uses()) > 1 or terms[0].is_graph_output():
        return None
    factors = _operands(mul, "Mul")
    if not factors or factors[0].shape is None or len(factors[0].shape) < 2:
        return None
    x, weight, bias = *factors, terms[1]
    channels = (x.shape[1], *[1] * (len(x.shape) - 2))
    fits = all(tuple(constant.const_value.shape) in (channels, (1, *channels)) for constant in (weight, bias))
    return (mul, x, weight, bias) if fits and bias.const_value.dtype.is_floating_point() else None


def _operands(node: ir.Node, kind: str) -> list[ir.Value]:
    """[computed, constant] of a sum or product, in whichever order they are; empty for anything else."""
    if node.op_type != kind:
        return []
    constant = [value.const_value is not None and not value.is_graph_input() for value in node.inputs]
    if sorted(constant) != [False, True]:
        return []
    return [node.inputs[constant.index(False)], node.inputs[constant.index(True)]]
