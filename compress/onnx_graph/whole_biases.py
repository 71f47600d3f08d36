"""Biases of products of bytes as whole numbers, without which onnxruntime has no kernel of bytes that gives floats."""

import numpy as np
import onnx_ir as ir

from compress.onnx_graph.byte_products import inputs_of
from compress.onnx_graph.simplify import tidy

LARGEST = 2**30  # half of what int32 holds; sums of products take the rest


def whole_biases(model: ir.Model) -> int:
    """int32 biases on the grid of their products, for linear layers whose outputs are floats.

    Biases are constants [out], of a Gemm or added to a MatMul. Those that the grid is too fine for stay float. Changes
    `model`; returns how many are int32.
    """
    changed = 0
    for node in list(model.graph):
        product, place = _biased(node)
        if product is None or any(use.node.op_type == "QuantizeLinear" for use in node.outputs[0].uses()):
            continue
        of_input, of_weight = (_scale(value) for value in product.inputs[:2])
        bias = node.inputs[place].const_value.numpy()
        if of_input is None or of_weight is None or of_input.size > 1 or of_weight.size not in (1, len(bias)):
            continue
        scale = np.broadcast_to(of_input.reshape(()) * of_weight.reshape(-1), bias.shape)
        whole = np.rint(bias / scale.astype(np.float64))
        if np.abs(whole).max(initial=0) >= LARGEST:
            continue
        name = f"{node.outputs[0].name}.bias"
        given = [
            ir.Value(name=f"{name}.{part}", const_value=ir.tensor(array))
            for part, array in {"whole": whole.astype(np.int32), "scale": scale.astype(np.float32)}.items()
        ]
        for value in given:
            model.graph.register_initializer(value)
        floats = ir.node("DequantizeLinear", given, {"axis": 0})
        model.graph.insert_before(node, floats)
        node.replace_input_with(place, floats.outputs[0])
        changed += 1
    tidy(model)
    return changed


def _biased(node: ir.Node) -> tuple[ir.Node | None, int]:
    """(the product that a node is or adds to, where its bias stands); None: it is nothing of the kind."""
    found: tuple[ir.Node | None, int] = None, 0
    if node.op_type == "Gemm" and len(node.inputs) > 2:
        found = node, 2
    elif node.op_type == "Add":
        for place, value in enumerate(node.inputs):
            before = value.producer() if value is not None else None
            if before is not None and before.op_type == "MatMul":
                found = before, 1 - place
    bias = node.inputs[found[1]] if found[0] is not None else None
    tensor = None if bias is None else bias.const_value
    return found if tensor is not None and len(tensor.shape) == 1 else (None, 0)


def _scale(factor: ir.Value | None) -> np.ndarray | None:
    """Of the bytes that a factor comes from: one number or one for each channel."""
    scale = inputs_of(factor, "DequantizeLinear")[1:2]
    tensor = scale[0].const_value if scale and scale[0] is not None else None
    return None if tensor is None else tensor.numpy()
