"""Stores in four bits what lies on a grid of four bits."""

from typing import Any

import numpy as np
import onnx_ir as ir
from onnxscript.rewriter import RewriteRule, RewriteRuleSet

from compress.onnx_graph.simplify import tidy
from compress.quantization.four_bits import BLOCK, LEVELS

OPSET = 21  # the first whose DequantizeLinear takes blocks and four bits
EXACT = 1e-5  # of a block's largest weight: what float32 leaves of a value on the grid


def pack_four_bits(model: ir.Model) -> int:
    """int4 weights and a DequantizeLinear in place of a MatMul's float weights [in,out] that lie on the grid.

    A grid: 15 equidistant levels around zero for each block of 32 inputs. Weights that lie on none stay as they are.
    Changes `model`, to opset 21 if need be; returns how many weights were packed.
    """
    rule = RewriteRule(lambda op, x, weight: op.MatMul(x, weight), _packed)
    packed: int = RewriteRuleSet([rule]).apply_to_model(model)
    if packed:
        model.graph.opset_imports[""] = max(OPSET, model.graph.opset_imports[""])
        tidy(model)
    return packed


def _packed(op: Any, x: ir.Value, weight: ir.Value) -> ir.Value | None:
    found = None if weight.const_value is None else _on_grid(weight.const_value.numpy())
    if found is None:
        return None
    levels, sizes = (op.Constant(value=ir.tensor(array)) for array in found)
    return op.MatMul(x, op.DequantizeLinear(levels, sizes, axis=0, block_size=BLOCK))


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
    return np.round(blocks / sizes).reshape(weight.shape).astype(ir.DataType.INT4.numpy()), sizes[:, 0]
