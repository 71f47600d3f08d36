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

    def vector(source: object, name: str, array: np.ndarray) -> ir.Value:
        if source not in vectors:
            tensor = ir.tensor(array.reshape(-1), name=f"affine{len(vectors)}.{name}")
            vectors[source] = ir.Value(name=tensor.name, const_value=tensor)
            model.graph.register_initializer(vectors[source])
        return vectors[source]

    pairs = [(mul, add) for add in model.graph if (mul := _product(add))]
    for mul, add in pairs:
        (x, weight), (_, bias) = _operands(mul), _operands(add)
        w, b = weight.const_value.numpy(), bias.const_value.numpy()
        inputs = [
            x,
            vector(weight, "weight", w),
            vector(bias, "bias", b),
            vector(("mean", w.size, w.dtype), "mean", np.zeros_like(w)),
            vector(("variance", w.size, w.dtype), "variance", np.ones_like(w)),
        ]
        new = ir.node("BatchNormalization", inputs, {"epsilon": 0.0})
        before, after = add.outputs[0], new.outputs[0]
        after.name, after.type, after.shape = before.name, before.type, before.shape
        model.graph.insert_before(add, new)
        ir.convenience.replace_all_uses_with(before, after, replace_graph_outputs=True)
        model.graph.remove([add, mul], safe=True)
    RemoveUnusedNodesPass()(model)
    return len(pairs)


def _product(add: ir.Node) -> ir.Node | None:
    """The Mul of an Add that ends x w + b; None for anything else."""
    if add.op_type != "Add" or not (found := _operands(add)):
        return None
    product, bias = found
    mul = product.producer()
    if mul is None or mul.op_type != "Mul" or len(product.uses()) > 1 or product.is_graph_output():
        return None
    if not (found := _operands(mul)):
        return None
    x, weight = found
    if x.dtype is None or not x.dtype.is_floating_point() or x.shape is None or len(x.shape) < 2:
        return None
    channels = (x.shape[1], *[1] * (len(x.shape) - 2))
    fits = all(tuple(constant.shape) in (channels, (1, *channels)) for constant in (weight, bias))
    return mul if fits else None


def _operands(node: ir.Node) -> tuple[ir.Value, ir.Value] | None:
    """(computed, constant) of a sum or product, in whichever order they are; None where there is no such pair."""
    constant = [value.const_value is not None and not value.is_graph_input() for value in node.inputs]
    if sorted(constant) != [False, True]:
        return None
    return node.inputs[constant.index(False)], node.inputs[constant.index(True)]
