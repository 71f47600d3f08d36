"""Stores in four bits what lies on a grid of four bits."""

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from compress.quantization.four_bits import BLOCK, LEVELS

OPSET = 21  # the first whose DequantizeLinear takes blocks and four bits
EXACT = 1e-5  # of a block's largest weight: what float32 leaves of a value on the grid


def pack_four_bits(model: ir.Model) -> int:
    """int4 weights and a DequantizeLinear in place of a MatMul's float weights [in,out] that lie on the grid.

    A grid: 15 equidistant levels around zero for each block of 32 inputs. Weights that lie on none stay as they are.
    Changes `model`, to opset 21 if need be; returns how many weights were packed.
    """
    packed = 0
    for node in list(model.graph):
        weight = node.inputs[1] if node.op_type == "MatMul" else None
        found = None if weight is None or weight.const_value is None else _on_grid(weight.const_value.numpy())
        if weight is None or found is None:
            continue
        constants = []
        for part, array in (("levels", found[0].astype(ir.DataType.INT4.numpy())), ("sizes", found[1])):
            tensor = ir.tensor(array, name=f"{node.outputs[0].name}.{part}")
            constants.append(ir.Value(name=tensor.name, const_value=tensor))
            model.graph.register_initializer(constants[-1])
        floats = ir.node("DequantizeLinear", constants, {"axis": 0, "block_size": BLOCK})
        floats.outputs[0].shape, floats.outputs[0].type = weight.shape, weight.type
        model.graph.insert_before(node, floats)
        node.replace_input_with(1, floats.outputs[0])
        packed += 1
    if packed:
        model.graph.opset_imports[""] = max(OPSET, model.graph.opset_imports[""])
        RemoveUnusedNodesPass()(model)
    return packed


def _on_grid(weight: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """(levels [in,out], sizes [in / 32,out]) of float32 weights [in,out]; None if they lie on no grid."""
    if weight.dtype != np.float32 or weight.ndim != 2 or weight.shape[0] % BLOCK or not weight.any():
        return None
    blocks = weight.reshape(-1, BLOCK, weight.shape[1])
    largest = np.abs(blocks).max(axis=1, keepdims=True)
    sizes = np.zeros_like(largest)
    for level in range(LEVELS, 0, -1):  # that the largest weight may be
        size = np.where(largest > 0, largest / np.float32(level), np.float32(1))
        fits = (np.abs(np.round(blocks / size) * size - blocks) <= EXACT * largest).all(axis=1, keepdims=True)
        sizes = np.where((sizes == 0) & fits, size, sizes)
    if (sizes == 0).any():
        return None
    return np.round(blocks / sizes).reshape(weight.shape), sizes[:, 0]
